"""Fits the routers of a merged mixture of experts to items of the search slice."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evomerge.errors import CandidateError, ConfigError, RunError, TaskError
from evomerge.merging import output_layers, stored_routers, write_routers
from evomerge.recipes import ModelRef, Recipe
from evomerge.routing import RouterDomain, RouterWork, refuse_other_routing
from evomerge.scoring import ItemLoss, task_of
from evomerge.searching import Evaluator
from evomerge.workers.pools import Pool

if TYPE_CHECKING:
    from evomerge.experiment.experiment import Experiment

log = logging.getLogger(__name__)

MAX_ITEMS = 256  # of all tasks together
ROUTERS = "routers-{}.safetensors"


class RouterStep:
    """Recipe → the same with calibrated routers, in a file of the run's folder that is named by the recipe's key.

    Each task is a domain. Its routers are those of the model that scores best on it, the base or an expert.
    """

    def __init__(self, experiment: "Experiment", evaluator: Evaluator, pool: Pool, folder: Path) -> None:
        self._experiment, self._evaluator, self._pool, self._folder = experiment, evaluator, pool, folder

    def __call__(self, recipe: Recipe) -> Recipe | None:
        """None, with a warning, if the routers cannot be calibrated; a file that an earlier command wrote is used."""
        if output_layers(recipe) is not None:
            log.warning("finalise.calibrate_routers: the winner has layers in another order, so its routers stay")
            return None
        path = self._folder / ROUTERS.format(recipe.key())
        if path.is_file():
            return recipe.with_routers(stored_routers(path))
        work = self._work()
        if not work.domains:
            log.warning("finalise.calibrate_routers: no item fits the model with its answer")
            return None
        try:
            routers = self._pool.calibrate(recipe, work)
        except (CandidateError, RunError) as error:
            log.warning("finalise.calibrate_routers: %s", error)
            return None
        tensors = {name: torch.from_numpy(weight) for name, weight in routers.items()}
        return recipe.with_routers(write_routers(tensors, path))

    def _work(self) -> RouterWork:
        losses = calibration_items(self._experiment)
        by_task: dict[str, list[ItemLoss]] = {}
        for item, loss in losses.items():
            by_task.setdefault(task_of(item), []).append(loss)
        size = max(1, MAX_ITEMS // len(by_task))
        models = self._best_models(by_task)
        rows = {task: self._rows(found[:size]) for task, found in by_task.items()}
        return RouterWork(tuple(RouterDomain(models[task], found) for task, found in rows.items() if found))

    def _best_models(self, tasks: Mapping[str, object]) -> dict[str, ModelRef]:
        """Task → base or expert with the highest mean on the search slice; the first of equal ones."""
        experiment, evaluator = self._experiment, self._evaluator
        models = {"base": experiment.base, **experiment.experts}
        keys = {label: experiment.baselines[label].key() for label in models if label in experiment.baselines}
        scored = {label: key for label, key in keys.items() if evaluator.error(key, "search") is None}
        means = {label: evaluator.means(key, "search") for label, key in scored.items()}
        return {task: models[max(means, key=lambda label: means[label][task])] for task in tasks}

    def _rows(self, losses: Sequence[ItemLoss]) -> tuple[tuple[int, ...], ...]:
        """The texts of items with their right answers, as the model reads them."""
        found: list[tuple[int, ...]] = []
        for loss in losses:
            requests = loss.requests if loss.gold is None else (loss.requests[loss.gold],)
            try:
                found += [row for request in requests for row in self._experiment.token_rows(request)]
            except TaskError:  # it does not fit the model with its answer
                continue
        return tuple(found)


def calibration_items(experiment: "Experiment") -> dict[str, ItemLoss]:
    """Item of the search slice → its right answer, for the tasks of the objective; ConfigError if none has one."""
    scorer, weights = experiment.scorer, experiment.objective.weights
    items = (item for item in scorer.plan.items("search") if task_of(item) in weights)
    found = {item: loss for item in items if (loss := scorer.loss(item)) is not None}
    if not found:
        raise ConfigError("finalise.calibrate_routers: no task has a right choice or a target text; leave it out")
    return found


def check_routers(experiment: "Experiment") -> None:
    """ConfigError where the routers of these models cannot be calibrated, before weights are read."""
    if experiment.family.base.skeleton.is_encoder_decoder:
        raise ConfigError("finalise.calibrate_routers: not for encoder-decoders yet; leave it out")
    if experiment.config.space.get("flow") is not None:
        raise ConfigError("finalise.calibrate_routers: not for an order of layers (space.flow); leave one of them out")
    refuse_other_routing(experiment.family)
    calibration_items(experiment)
