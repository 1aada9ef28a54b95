"""The race of an asynchronous search: a candidate is compared with those that are there after each of its chunks.

A generation of candidates does not exist, so a candidate is decided alone. Its peers are the candidates of the same
block, which see the chunks in the same order, on the chunks that it has seen; the rule of generations decides whether
it is clearly among the better half. It is scored on the whole slice for as long as its estimated score is above those
of the last population of results.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from evomerge.scoring import Chunk
from evomerge.searching.estimates import Control
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.generation import uses_races
from evomerge.searching.item_order import ItemOrder
from evomerge.searching.race import Matrix, RaceConfig, Strata, decide
from evomerge.searching.stages import Candidate

BLOCK = 2  # populations whose candidates see the chunks in the same order
CONTROLS = 8  # complete models by which an estimate is corrected for the difficulty of the items
KEPT_ROWS = 1000  # recipes whose scores are kept as rows
MIN_PEERS = 3  # fewer are no sample of the population


@dataclass(eq=False)
class Entrant:
    """A candidate in the race: its number, its block, its chunks in order, and how many of them it has seen."""

    number: int
    candidate: Candidate
    block: int
    chunks: tuple[Chunk, ...]
    seen: int = 0

    @property
    def key(self) -> str:
        """The key of its recipe."""
        return self.candidate.key


class OpenRace:
    """Decides candidates one by one; without races, every candidate is scored on the whole slice."""

    def __init__(self, evaluator: Evaluator, config: RaceConfig, order: ItemOrder) -> None:
        self._evaluator, self._config, self._order = evaluator, config, order
        self._is_race = uses_races(evaluator.objective, config)
        self._block, self._block_end, self._chunks = 0, 0, order.generation_chunks(0)
        self._peers: dict[int, list[Entrant]] = {}  # block → its entrants
        self._inside: dict[int, int] = {}  # block → how many of them are undecided
        self._complete: deque[tuple[Entrant, float]] = deque(maxlen=4 * CONTROLS)  # with their scores
        scores = {key: evaluator.fitness(key, "search").score for key in evaluator.baselines.values()}
        self._baselines = {key: score for key, score in scores.items() if not math.isnan(score)}
        self._rows, self._known_strata = ItemRows(evaluator), dict[tuple[int, int], Strata]()
        self._recent: list[float] = []  # scores of the last population of results

    def enter(self, number: int, candidate: Candidate, population: int) -> Entrant:
        """Add a candidate; candidates are added in the order of their numbers."""
        if number > self._block_end:
            ended, self._block, self._block_end = self._block, self._block + 1, number - 1 + BLOCK * population
            self._forget_if_over(ended)
            self._chunks = self._order.generation_chunks(self._block)
        entrant = Entrant(number, candidate, self._block, self._chunks)
        self._peers.setdefault(self._block, []).append(entrant)
        self._inside[self._block] = self._inside.get(self._block, 0) + 1
        return entrant

    def leave(self, entrant: Entrant, score: float, is_complete: bool, population: int) -> None:
        """Record the result of a candidate, NaN for a failure."""
        self._inside[entrant.block] -= 1
        self._forget_if_over(entrant.block)
        if math.isnan(score):
            return
        self._recent = [*self._recent, score][-population:]
        if is_complete:
            self._complete.append((entrant, score))

    def withdraw(self, entrant: Entrant) -> None:
        """Remove a candidate that is not scored."""
        self._peers[entrant.block].remove(entrant)
        self._inside[entrant.block] -= 1
        self._forget_if_over(entrant.block)

    def _forget_if_over(self, block: int) -> None:
        """Forget a block that no candidate enters any more, once all of its candidates have a result."""
        if block != self._block and self._inside.get(block) == 0:
            del self._peers[block], self._inside[block]
            self._known_strata = {place: strata for place, strata in self._known_strata.items() if place[0] != block}

    def estimate_if_stopped(self, entrant: Entrant, seen: int) -> float | None:
        """The estimated score of a candidate that stops after its first `seen` chunks; None if it continues."""
        if not self._is_race or seen == len(entrant.chunks):
            return None
        strata = self._strata(entrant, seen)
        items = len(strata.tasks)
        if items < self._config.least or not strata.covers_tasks:
            return None
        others = [peer for peer in self._peers[entrant.block] if peer is not entrant]
        peers = [peer.key for peer in others if self._is_scored(peer, seen)]
        scores = self._rows.matrix([entrant.key, *peers], entrant.chunks[:seen])
        stopped = [peer for peer in others if 0 < peer.seen < seen and self._is_scored(peer, peer.seen)]
        if not self._config.has_ended(items) and not self._is_decided(entrant, scores, strata, stopped):
            return None
        estimate = self._estimate(entrant, seen, scores, strata)
        return estimate if self._recent and estimate <= max(self._recent) else None

    def _is_decided(self, entrant: Entrant, scores: Matrix, strata: Strata, stopped: Sequence[Entrant]) -> bool:
        """Whether the first row is clearly among the better half of its block, or clearly not.

        `stopped` are the peers that have seen fewer chunks.
        """
        if len(scores) <= MIN_PEERS:
            return False
        better = sum(self._is_better(peer, entrant) for peer in stopped)
        best = max(0, (len(scores) + len(stopped)) // 2 - better)
        accepted, rejected = decide(scores, strata, best, self._config)
        return 0 in accepted or 0 in rejected

    def _is_better(self, peer: Entrant, entrant: Entrant) -> bool:
        """Whether a peer that has seen fewer chunks was ahead on them."""
        scores = self._rows.matrix([peer.key, entrant.key], entrant.chunks[: peer.seen])
        ahead, own = self._strata(entrant, peer.seen).means(scores)
        return bool(ahead > own)

    def _is_scored(self, peer: Entrant, seen: int) -> bool:
        return self._evaluator.scored_chunks(peer.key, peer.chunks[:seen]) == seen

    def _controls(self, entrant: Entrant) -> dict[str, float]:
        """Complete models whose scores on these chunks had no part in completing them, the newest first: their scores.

        These are candidates of other blocks, and baselines.
        """
        newest = ((other.key, score) for other, score in reversed(self._complete) if other.block != entrant.block)
        found = {key: score for key, score in [*newest, *self._baselines.items()] if key != entrant.key}
        return dict(islice(found.items(), CONTROLS))

    def _estimate(self, entrant: Entrant, seen: int, scores: Matrix, strata: Strata) -> float:
        """The score on the whole slice of the candidate whose row is the first."""
        controls = self._controls(entrant)
        if not controls:
            return float(strata.means(scores[:1])[0])
        rows = np.concatenate([scores, self._rows.matrix(list(controls), entrant.chunks[:seen])])
        slope = Control.fit(rows, strata, len(controls)).slope
        places = range(len(scores), len(rows))
        whole = np.array(list(controls.values()))
        return float(Control(slope, 0.0).estimates(strata.means(rows), list(places), whole)[0])

    def _strata(self, entrant: Entrant, seen: int) -> Strata:
        place = entrant.block, seen
        if place not in self._known_strata:
            items = self._rows.items(entrant.key, entrant.chunks[:seen])
            self._known_strata[place] = self._order.strata(items, self._evaluator.objective.weights)
        return self._known_strata[place]


class ItemRows:
    """Scores in the objective's units by recipe and chunk, each computed once; the oldest recipes are forgotten."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._known: dict[str, dict[str, Matrix]] = {}

    def matrix(self, keys: Sequence[str], chunks: Sequence[Chunk]) -> Matrix:
        """[recipes, items] on chunks that are scored for all of these recipes."""
        return np.array([np.concatenate([self._row(key, chunk) for chunk in chunks]) for key in keys])

    def items(self, key: str, chunks: Sequence[Chunk]) -> list[str]:
        """The items of the matrix's columns; `key` is any recipe that has scores on the chunks."""
        return list(self._evaluator.objective_items_on(key, chunks))

    def _row(self, key: str, chunk: Chunk) -> Matrix:
        rows = self._known.setdefault(key, {})
        if chunk.id not in rows:
            rows[chunk.id] = np.array(list(self._evaluator.objective_items_on(key, [chunk]).values()))
            while len(self._known) > KEPT_ROWS:
                del self._known[next(iter(self._known))]
        return rows[chunk.id]
