"""The loop: ask, decode, score what the ledger does not know, tell.

It imports no optimizer, no Ray, no lm-eval and no torch: those are behind `Optimizer`, `Pool` and `Scorer`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from evomerge.errors import RunError
from evomerge.optimizers import Optimizer, Surrogate, Vector
from evomerge.recipes import Recipe
from evomerge.scoring import Scorer
from evomerge.searching.budget import RemainingBudget
from evomerge.searching.evaluator import Candidate, Evaluator, ProgressCallback
from evomerge.searching.generation import item_order, races, run_generation
from evomerge.searching.objective import Fitness
from evomerge.searching.race import RaceConfig
from evomerge.space import SearchSpace

NO_RACE = RaceConfig(enabled=False)


class SearchCallback(ProgressCallback, Protocol):
    """Whoever wants to know how the search is going: progress display, best recipe so far, trackers."""

    def generation(self, number: int, board: "Leaderboard", scores: Sequence[float]) -> None:
        """A generation is scored; `scores` in the order asked, NaN for failures; number 0 is the baselines.

        The score of a candidate that a race has stopped is an estimate.
        """


class Leaderboard:
    """Every candidate seen, with its score on the search slice; the best first."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.candidates: dict[str, Candidate] = {}
        self.fitness: dict[str, Fitness] = {}  # of those with the whole slice
        self.model = Surrogate()  # of all scores so far, estimates included
        self.favourites: dict[str, Vector] = {}  # points that may be better than any asked, when the search has ended

    def add(self, candidates: Sequence[Candidate], whole: Collection[str] | None = None) -> None:
        """Take in candidates, of which those in `whole`, or all, have the whole slice: the others have no rank.

        A recipe keeps the first label that it was seen under.
        """
        for candidate in candidates:
            self.candidates.setdefault(candidate.key, candidate)
            if whole is None or candidate.key in whole:
                self.fitness.setdefault(candidate.key, self._evaluator.fitness(candidate.key, "search"))

    def ranked(self) -> list[tuple[Candidate, float]]:
        """Best first, without failures and whoever a race has stopped; equal scores in the order seen."""
        scored = [(c, self.fitness[key].score) for key, c in self.candidates.items() if key in self.fitness]
        good = (pair for pair in scored if not math.isnan(pair[1]))
        return sorted(good, key=lambda pair: self.fitness[pair[0].key].rank, reverse=True)

    def stopped(self) -> list[Candidate]:
        """Whoever a race has stopped and no other one has let see the whole slice."""
        return [candidate for key, candidate in self.candidates.items() if key not in self.fitness]

    def failures(self) -> dict[str, str]:
        """Label → reason of every candidate that failed in the search; whoever a race has stopped did not."""
        errors = ((self.candidates[key].label, self._evaluator.error(key, "search")) for key in self.fitness)
        return {label: error for label, error in errors if error}


def search(
    evaluator: Evaluator,
    space: SearchSpace,
    optimizer: Optimizer,
    baselines: Mapping[str, Recipe],
    remaining: RemainingBudget,
    callbacks: Sequence[SearchCallback] = (),
    rule: RaceConfig = NO_RACE,
) -> Leaderboard:
    """Score the baselines, then generations as long as the budget lasts.

    The last generation is cut to the budget and not told, so that a larger budget continues exactly here.
    RunError where the base itself cannot be scored.
    """
    board = Leaderboard(evaluator)
    board.add(first := _standing(evaluator, baselines))
    if races(evaluator.objective, rule):
        rule = remaining.widened(rule, space.dimensions)
    order = item_order(evaluator, rule)
    _announce(callbacks, 0, board, [board.fitness[candidate.key].score for candidate in first])
    number = 0
    while (room := remaining.room(number)) and (vectors := optimizer.ask()):
        number += 1
        kept = vectors[:room]
        candidates = [Candidate.of(f"{number}/{place}", space.decode(v), v) for place, v in enumerate(kept)]
        scored = run_generation(evaluator, candidates, rule, order, number)
        remaining.spend(len(kept), scored.items)
        board.add(candidates, scored.whole)
        losses: list[Any] = [evaluator.objective.loss(scored.fitness[c.key]) for c in candidates]
        if not evaluator.objective.front:
            board.model.tell(kept, losses)
        _announce(callbacks, number, board, [scored.fitness[c.key].score for c in candidates])
        if len(kept) == len(vectors):
            optimizer.tell(vectors, losses)
    believed = {"centre": optimizer.centre(), "model": board.model.best()}
    board.favourites = {label: point for label, point in believed.items() if point is not None}
    return board


def _standing(evaluator: Evaluator, baselines: Mapping[str, Recipe]) -> list[Candidate]:
    """The baselines, scored; the base's failure of an earlier command is tried again."""
    first = [Candidate.of(label, recipe) for label, recipe in baselines.items()]
    evaluator.retry(first[0].key, "search")
    evaluator.copy_rechunked_scores()
    evaluator.evaluate(first, "search")
    evaluator.baselines = {candidate.label: candidate.key for candidate in first}
    if error := evaluator.error(first[0].key, "search"):
        raise RunError(f"the base itself cannot be scored: {error}; mend that, then repeat the command")
    return first


def _announce(callbacks: Sequence[SearchCallback], number: int, board: Leaderboard, scores: Sequence[float]) -> None:
    for callback in callbacks:
        callback.generation(number, board, scores)


def ledger_header(scorer: Scorer, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a ledger's scores are scores of, as far as it is known before weights are read."""
    chunks = {chunk.id: list(chunk.items) for chunks in scorer.plan.chunks.values() for chunk in chunks}
    return {"config": dict(config), "chunks": chunks, "items": scorer.fingerprint}
