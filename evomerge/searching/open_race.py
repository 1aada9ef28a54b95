"""The race of an asynchronous search: a candidate is compared with those that are there after each of its chunks.

A generation of candidates does not exist, so a candidate is decided alone. Its peers are the candidates of the same
block, which see the chunks in the same order, on the chunks that it has seen; the rule of generations decides whether
it is clearly among the better half. It is scored on the whole slice for as long as its estimated score is above those
of the last population of results.
"""

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
        self._complete: deque[Entrant] = deque(maxlen=4 * CONTROLS)
        self._baselines = [key for key in evaluator.baselines.values() if evaluator.item_scores(key, "search")]
        self._recent: list[float] = []  # scores of the last population of results

    def enter(self, number: int, candidate: Candidate, population: int) -> Entrant:
        """Add a candidate; candidates are added in the order of their numbers."""
        if number > self._block_end:
            self._block, self._block_end = self._block + 1, number - 1 + BLOCK * population
            self._chunks = self._order.generation_chunks(self._block)
        entrant = Entrant(number, candidate, self._block, self._chunks)
        self._peers.setdefault(self._block, []).append(entrant)
        self._inside[self._block] = self._inside.get(self._block, 0) + 1
        return entrant

    def leave(self, entrant: Entrant, score: float, is_complete: bool, population: int) -> None:
        """Record the result of a candidate, NaN for a failure."""
        self._inside[entrant.block] -= 1
        if not self._inside[entrant.block] and entrant.block != self._block:
            del self._peers[entrant.block], self._inside[entrant.block]
        if np.isnan(score):
            return
        self._recent = [*self._recent, score][-population:]
        if is_complete:
            self._complete.append(entrant)

    def estimate_if_stopped(self, entrant: Entrant, seen: int) -> float | None:
        """The estimated score of a candidate that stops after its first `seen` chunks; None if it continues."""
        if not self._is_race or seen == len(entrant.chunks):
            return None
        peers = [peer for peer in self._peers[entrant.block] if peer is not entrant and self._is_scored(peer, seen)]
        controls = self._controls(entrant)
        keys = [entrant.key, *(peer.key for peer in peers), *controls]
        scores, strata = self._matrix(keys, entrant.chunks[:seen])
        if scores.shape[1] < self._config.least or not strata.covers_tasks:
            return None
        estimate = self._estimate(scores, strata, controls)
        if not self._recent or estimate > max(self._recent):
            return None
        if self._config.has_ended(scores.shape[1]) or self._is_decided(entrant, scores[: 1 + len(peers)], strata, seen):
            return estimate
        return None

    def _is_decided(self, entrant: Entrant, scores: Matrix, strata: Strata, seen: int) -> bool:
        """Whether the first row is clearly among the better half of its block, or clearly not."""
        if len(scores) <= MIN_PEERS:
            return False
        stopped = [
            peer
            for peer in self._peers[entrant.block]
            if peer is not entrant and peer.seen < seen and peer.seen and self._is_scored(peer, peer.seen)
        ]
        better = sum(self._is_better(peer, entrant) for peer in stopped)
        best = max(0, (len(scores) + len(stopped)) // 2 - better)
        accepted, rejected = decide(scores, strata, best, self._config)
        return 0 in accepted or 0 in rejected

    def _is_better(self, peer: Entrant, entrant: Entrant) -> bool:
        """Whether a peer that has seen fewer chunks was ahead on them."""
        scores, strata = self._matrix([peer.key, entrant.key], entrant.chunks[: peer.seen])
        ahead, own = strata.means(scores)
        return bool(ahead > own)

    def _is_scored(self, peer: Entrant, seen: int) -> bool:
        return self._evaluator.scored_chunks(peer.key, peer.chunks[:seen]) == seen

    def _controls(self, entrant: Entrant) -> list[str]:
        """Keys of complete models whose scores on these chunks had no part in completing them, the newest first."""
        newest = (other.key for other in reversed(self._complete) if other.block != entrant.block)
        found = dict.fromkeys([*islice(newest, CONTROLS), *self._baselines])
        found.pop(entrant.key, None)
        return list(found)[:CONTROLS]

    def _estimate(self, scores: Matrix, strata: Strata, controls: Sequence[str]) -> float:
        """The score of the first row on the whole slice; the last rows are those of the controls."""
        means = strata.means(scores)
        if not controls:
            return float(means[0])
        whole = np.array([self._evaluator.fitness(key, "search").score for key in controls])
        slope = Control.fit(scores, strata, len(controls)).slope
        rows = range(len(scores) - len(controls), len(scores))
        return float(Control(slope, 0.0).estimates(means, list(rows), whole)[0])

    def _matrix(self, keys: Sequence[str], chunks: Sequence[Chunk]) -> tuple[Matrix, Strata]:
        rows = [self._evaluator.objective_items_on(key, chunks) for key in keys]
        items = list(rows[0])
        strata = self._order.strata(items, self._evaluator.objective.weights)
        return np.array([[row[item] for item in items] for row in rows]), strata
