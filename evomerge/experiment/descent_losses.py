"""The items of the search slice that have a differentiable loss, for a search that descends on slopes."""

import logging

from evomerge.errors import ConfigError
from evomerge.scoring import ItemLoss, Scorer, task_of
from evomerge.searching import WITHOUT_SLOPES, Objective
from evomerge.space import SearchSpace

log = logging.getLogger(__name__)


def find_losses(scorer: Scorer, objective: Objective, space: SearchSpace) -> dict[str, ItemLoss]:
    """Item → its loss, for the tasks of the objective.

    Tasks without a right choice or a target text are named in a warning. ConfigError if no other task is left, or if no
    searched gene has a slope.
    """
    if not space.slope_genes:
        raise ConfigError(
            f"optimizer: no searched gene of {space.method} has a slope, so there is no descent; {WITHOUT_SLOPES}"
        )
    searched = [item for item in scorer.plan.items("search") if task_of(item) in objective.weights]
    found = {item: loss for item in searched if (loss := scorer.loss(item)) is not None}
    if left := {task_of(item) for item in searched} - {task_of(item) for item in found}:
        log.warning("tasks without a right choice or a target text are left out of the descent: %s", sorted(left))
    if not found:
        raise ConfigError(
            f"optimizer: no task has a right choice or a target text, so there is no descent; {WITHOUT_SLOPES}"
        )
    return found
