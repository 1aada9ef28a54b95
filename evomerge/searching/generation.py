"""One generation scored chunk by chunk: after each, whoever is decided stops, and the best one goes to the end."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.ledger import Rechunking
from evomerge.searching.evaluator import Candidate, Evaluator, Stage
from evomerge.searching.item_order import ItemOrder, agreement, rechunked
from evomerge.searching.objective import FAILED, Fitness, Objective
from evomerge.searching.race import Matrix, RaceConfig, Strata, decided

BEHIND = 1e-9


@dataclass(frozen=True)
class Scored:
    """A generation on the search slice: what each recipe is worth, on how many items, and who has seen all of them."""

    fitness: Mapping[str, Fitness]
    items: Mapping[str, int]
    whole: frozenset[str]


def run_generation(
    evaluator: Evaluator, candidates: Sequence[Candidate], rule: RaceConfig, order: ItemOrder, number: int
) -> Scored:
    """Score a generation; the worth of candidates that stop early is estimated, the leader is always complete.

    Half of the candidates count as the best, as in CMA-ES. Every decision is made when all that are still running
    have seen the same chunks, and from these chunks alone, so it depends on no worker's speed and no earlier run;
    equal ones stand in the order asked, not in that of their keys, which hold the paths of models.
    """
    unique = list({candidate.key: candidate for candidate in candidates}.values())
    if not races(evaluator.objective, rule):
        evaluator.evaluate(unique, "search")
        count = len(evaluator.plan.items("search"))
        fitness = {candidate.key: evaluator.fitness(candidate.key, "search") for candidate in unique}
        return Scored(fitness, dict.fromkeys(fitness, count), frozenset(fitness))
    return _Race(evaluator, unique, rule, order, number).run()


def races(objective: Objective, rule: RaceConfig) -> bool:
    """Whether generations are races: not where one number does not say all."""
    return rule.enabled and objective.scalar


def item_order(evaluator: Evaluator, rule: RaceConfig) -> ItemOrder:
    """The order of a search whose baselines are scored; an informative one deals the search slice anew, once."""
    if rule.items != "informative" or not races(evaluator.objective, rule):
        return ItemOrder.even(evaluator.plan, rotating=rule.items != "fixed")
    rechunking = evaluator.rechunking or _informative(evaluator)
    evaluator.rechunk(rechunking)
    return ItemOrder.informative(evaluator.plan, rechunking.levels)


def _informative(evaluator: Evaluator) -> Rechunking:
    scores = (evaluator.items(key, "search") for key in evaluator.baselines.values())
    levels = agreement(evaluator.plan, [items for items in scores if items])
    return Rechunking({chunk.id: list(chunk.items) for chunk in rechunked(evaluator.plan, levels)}, levels)


class _Race:
    def __init__(
        self, evaluator: Evaluator, candidates: Sequence[Candidate], rule: RaceConfig, order: ItemOrder, number: int
    ) -> None:
        self._evaluator, self._rule, self._order, self._number = evaluator, rule, order, number
        self._candidates = {candidate.key: candidate for candidate in candidates}
        self._chunks = order.of_generation(number)
        self._running = list(self._candidates)
        self._best = len(candidates) // 2
        self._stopped: dict[str, int] = {}  # key → chunks seen
        self._failed: dict[str, int] = {}
        self._rejected: set[str] = set()

    def run(self) -> Scored:
        """The chunks one after the other, as long as anyone runs."""
        self._evaluator.in_stages(self._chunks, self._stages())
        self._evaluator.record_race(self._number, self._chunks[0].id, self._stopped)
        length = [len(chunk.items) for chunk in self._chunks]
        ended = self._stopped | self._failed
        items = {key: sum(length[: ended.get(key, len(length))]) for key in self._candidates}
        return Scored(self._fitnesses(), items, frozenset(self._candidates) - frozenset(self._stopped))

    def _stages(self) -> Iterator[Stage]:
        """One chunk more for whoever still runs; what is decided is a function of the chunks before."""
        for seen in range(1, len(self._chunks) + 1):
            yield Stage([self._candidates[key] for key in self._running], seen)
            chunks = self._chunks[:seen]
            self._failed |= {k: seen for k in self._running if self._evaluator.error_on(k, chunks) is not None}
            self._running = [key for key in self._running if key not in self._failed]
            if self._running and seen < len(self._chunks):
                self._stop(seen)

    def _stop(self, seen: int) -> None:
        """Let go of whoever is decided, but for the one that leads."""
        scores, strata = self._matrix(self._running, seen)
        taken = len(self._stopped) - len(self._rejected)
        accepted, rejected = decided(scores, strata, max(0, self._best - taken), self._rule)
        leader = int(np.argmax(strata.means(scores)))
        for row in {*accepted, *rejected} - {leader}:
            self._stopped[self._running[row]] = seen
        self._rejected |= {self._running[row] for row in rejected if row != leader}
        self._running = [key for key in self._running if key not in self._stopped]

    def _fitnesses(self) -> dict[str, Fitness]:
        """A stopped candidate is worth what the leader is, and the difference on the items that both have seen.

        Where nobody got to the end, its own mean has to do.
        """
        found = {key: self._evaluator.fitness(key, "search") for key in self._running}
        found |= dict.fromkeys(self._failed, FAILED)
        leader = max(self._running, key=lambda key: found[key].score, default=None)
        for key, seen in self._stopped.items():
            scores, strata = self._matrix([key, leader or key], seen)
            own, leading = strata.means(scores)
            found[key] = Fitness(float(own) + (found[leader].score - float(leading) if leader else 0.0))
        return found | self._held_back(found)

    def _held_back(self, found: Mapping[str, Fitness]) -> dict[str, Fitness]:
        """Whoever was rejected ranks behind everyone that was not, in the order of what it is worth."""
        kept = [w.score for key, w in found.items() if key not in self._rejected and not math.isnan(w.score)]
        least = min(kept, default=math.inf)
        order = sorted((k for k in self._candidates if k in self._rejected), key=lambda key: -found[key].score)
        return {key: Fitness(min(found[key].score, least - BEHIND * place)) for place, key in enumerate(order, 1)}

    def _matrix(self, keys: Sequence[str], seen: int) -> tuple[Matrix, Strata]:
        """The scores of the first chunks' items in the objective's units, and what each item stands for."""
        rows = [self._evaluator.seen_items(key, self._chunks[:seen]) for key in keys]
        items = list(rows[0])
        strata = self._order.strata(items, self._evaluator.objective.weights)
        return np.array([[row[item] for item in items] for row in rows]), strata
