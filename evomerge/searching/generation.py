"""Evaluation of one generation, as a race: after each chunk decided candidates stop, and the leader is completed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.ledger import Rechunking
from evomerge.searching.estimates import Control
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.item_order import ItemOrder, agreement_levels, chunks_by_level
from evomerge.searching.objective import FAILED, Fitness, Objective
from evomerge.searching.race import Matrix, RaceConfig, Strata, decide
from evomerge.searching.stages import Candidate, Stage

RANK_GAP = 1e-9  # between the scores of rejected candidates that are lowered to rank last


@dataclass(frozen=True)
class GenerationResult:
    """A generation on the search slice, by recipe key.

    `fitness` is an estimate for candidates that a race has stopped. `items_seen` counts the items of each candidate,
    and `complete` holds the keys that were not stopped.
    """

    fitness: Mapping[str, Fitness]
    items_seen: Mapping[str, int]
    complete: frozenset[str]


def run_generation(
    evaluator: Evaluator, candidates: Sequence[Candidate], race: RaceConfig, order: ItemOrder, number: int
) -> GenerationResult:
    """Score a generation; the fitness of candidates that stop early is estimated, the leader is always completed.

    Half of the candidates count as the best ones, as in CMA-ES. A decision is made when all running candidates have
    seen the same chunks, and depends on these chunks alone, so neither the speed of the workers nor an earlier run
    changes it. Candidates with equal scores keep the order in which they were proposed. Their keys would not do as an
    order, because they depend on the paths of the models.
    """
    unique = list({candidate.key: candidate for candidate in candidates}.values())
    if not uses_races(evaluator.objective, race):
        evaluator.evaluate(unique, "search")
        count = len(evaluator.plan.items("search"))
        fitness = {candidate.key: evaluator.fitness(candidate.key, "search") for candidate in unique}
        return GenerationResult(fitness, dict.fromkeys(fitness, count), frozenset(fitness))
    return _Race(evaluator, unique, race, order, number).run()


def uses_races(objective: Objective, race: RaceConfig) -> bool:
    """Whether generations are races: races must be enabled, and the objective must be a single score."""
    return race.enabled and objective.single_score


def item_order(evaluator: Evaluator, race: RaceConfig) -> ItemOrder:
    """The item order of a search whose baselines are scored.

    An informative order regroups the search slice once, from the scores of the baselines; a resumed search takes the
    grouping from the ledger.
    """
    if race.items != "informative" or not uses_races(evaluator.objective, race):
        return ItemOrder.as_drawn(evaluator.plan, rotating=race.items != "fixed")
    rechunking = evaluator.rechunking or _rechunking_by_level(evaluator)
    evaluator.rechunk(rechunking)
    return ItemOrder.by_level(evaluator.plan, rechunking.levels)


def _rechunking_by_level(evaluator: Evaluator) -> Rechunking:
    scores = (evaluator.item_scores(key, "search") for key in evaluator.baselines.values())
    levels = agreement_levels(evaluator.plan, [items for items in scores if items])
    return Rechunking({chunk.id: list(chunk.items) for chunk in chunks_by_level(evaluator.plan, levels)}, levels)


class _Race:
    def __init__(
        self, evaluator: Evaluator, candidates: Sequence[Candidate], config: RaceConfig, order: ItemOrder, number: int
    ) -> None:
        self._evaluator, self._config, self._order, self._number = evaluator, config, order, number
        self._candidates = {candidate.key: candidate for candidate in candidates}
        self._chunks = order.generation_chunks(number)
        self._running = list(self._candidates)
        self._parents = len(candidates) // 2  # μ
        self._stopped: dict[str, int] = {}  # key → chunks seen
        self._failed: dict[str, int] = {}  # key → chunks seen
        self._rejected: set[str] = set()

    def run(self) -> GenerationResult:
        """Score chunk after chunk until no candidate is running."""
        self._evaluator.evaluate_stages(self._chunks, self._stages())
        self._evaluator.record_race(self._number, self._chunks[0].id, self._stopped)
        length = [len(chunk.items) for chunk in self._chunks]
        ended = self._stopped | self._failed
        items = {key: sum(length[: ended.get(key, len(length))]) for key in self._candidates}
        return GenerationResult(self._fitnesses(), items, frozenset(self._candidates) - frozenset(self._stopped))

    def _stages(self) -> Iterator[Stage]:
        """One more chunk for the running candidates, then a decision that depends on the chunks so far alone."""
        for seen in range(1, len(self._chunks) + 1):
            yield Stage([self._candidates[key] for key in self._running], seen)
            chunks = self._chunks[:seen]
            self._failed |= {k: seen for k in self._running if self._evaluator.error_on(k, chunks) is not None}
            self._running = [key for key in self._running if key not in self._failed]
            if self._running and seen < len(self._chunks):
                self._stop(seen)

    def _stop(self, seen: int) -> None:
        """Stop the candidates that are accepted or rejected after `seen` chunks, except the leader."""
        scores, strata = self._matrix(self._running, seen)
        already_accepted = len(self._stopped) - len(self._rejected)
        accepted, rejected = decide(scores, strata, max(0, self._parents - already_accepted), self._config)
        if not accepted and not rejected:
            return
        leader = int(np.argmax(strata.means(scores)))
        for row in {*accepted, *rejected} - {leader}:
            self._stopped[self._running[row]] = seen
        self._rejected |= {self._running[row] for row in rejected if row != leader}
        self._running = [key for key in self._running if key not in self._stopped]

    def _fitnesses(self) -> dict[str, Fitness]:
        """The fitness of every candidate; that of a stopped one is an estimate."""
        found = {key: self._evaluator.fitness(key, "search") for key in self._running}
        found |= dict.fromkeys(self._failed, FAILED)
        found |= {key: Fitness(score) for key, score in self._estimates(found).items()}
        return found | self._ranked_last(found)

    def _estimates(self, found: Mapping[str, Fitness]) -> dict[str, float]:
        """The estimated scores of the stopped candidates; their own means if no candidate was completed."""
        estimates: dict[str, float] = {}
        ran = [key for key in self._candidates if key not in self._failed]
        whole = np.array([found[key].score for key in self._running])
        control = None
        for seen in sorted(set(self._stopped.values())):
            rows = [key for key in ran if self._stopped.get(key, len(self._chunks)) >= seen]
            scores, strata = self._matrix(rows, seen)
            means = strata.means(scores)
            if self._running:
                control = control or Control.fit(scores, strata, len(self._running))
                means = control.estimates(means, [rows.index(key) for key in self._running], whole)
            estimates |= {k: float(mean) for k, mean in zip(rows, means, strict=True) if self._stopped.get(k) == seen}
        return estimates

    def _ranked_last(self, found: Mapping[str, Fitness]) -> dict[str, Fitness]:
        """The rejected candidates in their order, with scores lowered where necessary to rank below all others."""
        kept = [w.score for key, w in found.items() if key not in self._rejected and not math.isnan(w.score)]
        least = min(kept, default=math.inf)
        order = sorted((k for k in self._candidates if k in self._rejected), key=lambda key: -found[key].score)
        return {key: Fitness(min(found[key].score, least - RANK_GAP * place)) for place, key in enumerate(order, 1)}

    def _matrix(self, keys: Sequence[str], seen: int) -> tuple[Matrix, Strata]:
        """The scores [keys, items] on the first `seen` chunks, in the objective's units, and the items' strata."""
        rows = [self._evaluator.objective_items_on(key, self._chunks[:seen]) for key in keys]
        items = list(rows[0])
        strata = self._order.strata(items, self._evaluator.objective.weights)
        return np.array([[row[item] for item in items] for row in rows]), strata
