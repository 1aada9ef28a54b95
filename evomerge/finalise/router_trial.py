"""The winner with calibrated routers, and whether that is better on `select`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evomerge.recipes import Recipe
from evomerge.searching import Candidate, Evaluator

Calibrate = Callable[[Recipe], Recipe | None]


@dataclass(frozen=True)
class RouterTrial:
    """The scores on `select` of a merge and of the same with calibrated routers; None for one that has failed.

    `is_better` says whether the calibrated routers are kept: floors come before scores, as everywhere.
    """

    before: float
    after: float | None
    is_better: bool
    candidate: Candidate

    def as_dict(self) -> dict[str, Any]:
        """The trial as JSON values for result.json."""
        return {"before": self.before, "after": self.after, "kept": self.is_better}


def try_routers(evaluator: Evaluator, winner: Candidate, calibrate: Calibrate) -> RouterTrial | None:
    """Score the winner with calibrated routers on `select`; None if its routers cannot be calibrated."""
    recipe = calibrate(winner.recipe)
    if recipe is None:
        return None
    candidate = Candidate.of(f"{winner.label}, routers calibrated", recipe, winner.vector)
    for slice_name in ("search", "select"):  # the table shows both
        evaluator.evaluate([candidate], slice_name)
    failed = evaluator.error(candidate.key, "select") is not None
    after = None if failed else evaluator.score(candidate.key, "select")
    ranks = [evaluator.fitness(key, "select").rank for key in (candidate.key, winner.key)]
    return RouterTrial(evaluator.score(winner.key, "select"), after, not failed and ranks[0] > ranks[1], candidate)
