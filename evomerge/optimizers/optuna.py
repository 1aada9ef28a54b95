"""Optuna's samplers: TPE, GP, CMA-ES, NSGA-II, NSGA-III and QMC, with integers and categories as such.

The study is in memory, and a search resumes by replay: a seeded sampler suggests the same points again when it is told
the same losses. A failed candidate is told with the worst loss so far, which suits the samplers better than +inf.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any

import optuna
from optuna.samplers import BaseSampler

from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Population, Surrogate, Vector
from evomerge.optimizers._distributions import Parameters
from evomerge.schema import OneOf

SEVERAL_OBJECTIVES = True
ASYNCHRONOUS = True
SamplerFactory = Callable[[int, int], BaseSampler]  # arguments: seed, population


def _cma(seed: int, population: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, popsize=max(population, 4), warn_independent_sampling=False)


def _qmc(seed: int, population: int) -> BaseSampler:
    return optuna.samplers.QMCSampler(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    )


SAMPLERS: dict[str, SamplerFactory] = {
    "tpe": lambda seed, population: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed, population: optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False),
    "cma": _cma,
    "nsga2": lambda seed, population: optuna.samplers.NSGAIISampler(seed=seed, population_size=max(population, 2)),
    "nsga3": lambda seed, population: optuna.samplers.NSGAIIISampler(seed=seed, population_size=max(population, 2)),
    "qmc": _qmc,
}
ONE_OBJECTIVE = ("cma",)


class OptunaSearch:
    """An in-memory Optuna study that is asked for one population at a time."""

    def __init__(
        self,
        coordinates: Sequence[Coordinate],
        seeds: Sequence[Vector],
        sampler: Callable[[], BaseSampler],
        population: int,
        objectives: int,
    ) -> None:
        self._parameters, self.population = Parameters(coordinates), population
        with _silenced():
            self._study = optuna.create_study(sampler=sampler(), directions=["minimize"] * objectives)
            for point in seeds:
                self._study.enqueue_trial(self._parameters.of(point))
        self._trials: list[optuna.trial.Trial] = []
        self._outstanding: dict[int, optuna.trial.Trial] = {}  # number of a proposed point → its trial
        self._proposed = 0
        self._worst: list[float] = [-math.inf] * objectives

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """The remaining seeds, then the suggestions of the sampler."""
        with _silenced():
            self._trials = [self._study.ask(self._parameters.distributions) for _ in range(self.population)]
        return [self._parameters.vector(trial.params) for trial in self._trials]

    def propose(self, surrogate: Surrogate | None = None) -> Vector:
        """The remaining seeds, then a suggestion of the sampler, which sees the outstanding trials.

        TPE counts these as bad ones (constant liar) and GP conditions on them. NSGA-II and NSGA-III breed from the last
        complete population, CMA-ES updates when a population is complete, and QMC ignores results.
        """
        with _silenced():
            trial = self._study.ask(self._parameters.distributions)
        self._proposed += 1
        self._outstanding[self._proposed] = trial
        return self._parameters.vector(trial.params)

    def learn(self, number: int, loss: Any) -> None:
        """Tell the study the loss, or the losses, of the trial with this number."""
        self._tell_all([self._outstanding.pop(number)], [loss])

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Tell the study the loss, or the losses, of each trial of the generation."""
        self._tell_all(self._trials, losses)

    def _tell_all(self, trials: Sequence[optuna.trial.Trial], losses: Sequence[Any]) -> None:
        told = [loss if isinstance(loss, tuple) else (loss,) for loss in losses]
        for values in told:
            if all(map(math.isfinite, values)):
                self._worst = [max(pair) for pair in zip(self._worst, values, strict=True)]
        for trial, values in zip(trials, told, strict=True):
            self._tell(trial, values)

    def centre(self) -> None:
        """None: Optuna's samplers have no estimate of the optimum."""

    def _tell(self, trial: optuna.trial.Trial, values: Sequence[float]) -> None:
        failed = not all(map(math.isfinite, values))
        with _silenced():
            if failed and not all(map(math.isfinite, self._worst)):  # no candidate has a loss yet
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(trial, self._worst if failed else list(values))


@contextmanager
def _silenced() -> Iterator[None]:
    """Suppress Optuna's log lines and its warnings about experimental features."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def create(
    coordinates: Sequence[Coordinate],
    seeds: Sequence[Vector],
    seed: int,
    *,
    sampler: Annotated[str, OneOf(tuple(SAMPLERS))] = "tpe",
    population: Population = 8,
    objectives: int = 1,
) -> OptunaSearch:
    """`sampler` is a key of SAMPLERS; `population` candidates are asked before any of them is told."""
    if objectives > 1 and sampler in ONE_OBJECTIVE:
        able = ", ".join(name for name in SAMPLERS if name not in ONE_OBJECTIVE)
        raise ConfigError(f"objective.front: optimizer.sampler={sampler} takes one objective; choose one of {able}")
    if sampler == "cma" and find_spec("cmaes") is None:
        raise ConfigError("optimizer.sampler=cma: the package cmaes is not installed; pip install 'evomerge[optuna]'")
    return OptunaSearch(coordinates, seeds, lambda: SAMPLERS[sampler](seed, population), population, objectives)
