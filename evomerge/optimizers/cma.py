"""CMA-ES inside the unit cube: the seeds, a run that starts at the best of them, and optional restarts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimizers import MAX_POPULATION, Coordinate, Descent, Terms, Vector
from evomerge.optimizers._arrivals import Arrivals
from evomerge.optimizers._descent import Batch, Descender, DescentSettings, Origin, Passes, Rate
from evomerge.optimizers._restarts import KINDS, Restarts, rounded_up
from evomerge.optimizers._surrogate import Surrogate
from evomerge.schema import OneOf, Range

if TYPE_CHECKING:
    from evomerge.optimizers._strategy import Strategy

ASYNCHRONOUS = True
COVARIANCES = ("auto", "full", "diagonal", "vd")
DIAGONAL_FROM = 24  # dimensions from which a full covariance adapts too slowly for a thousand candidates
VD_FROM = 10  # dimensions that cma's vd sampler requires
STARTS = ("seeds", "slope")
AFTER_DESCENT = 0.25  # a descent ends near an optimum: the first step is so many times as large as without it
OF_A_DESCENT: Mapping[str, Any] = {"share": 0.5, "rate": 0.03, "batch": 16, "passes": 3, "origin": "auto"}
SCALES = (1 / 3, 3.0)  # the smallest and the largest relative length of an axis


class CMA:
    """The seeds are the first generation; the first run starts at the best of them.

    With a descent, its last and its averaged iterate replace the seeds, and the first run starts at the better of them,
    with a smaller step and with axes that are shorter where the squared slopes are large. Axes without a slope begin
    as long as without a descent.

    If the search provides a surrogate model, `factor` times as many points are sampled and the most promising returned.
    """

    def __init__(
        self,
        coordinates: Sequence[Coordinate],
        seeds: Sequence[Vector],
        restarts: Restarts,
        covariance: str,
        tolerance: float,
        factor: int,
        descender: Descender | None = None,
        share: float = 0.5,
    ) -> None:
        self._descender, self._share = descender, share
        self._coordinates, self._restarts = tuple(coordinates), restarts
        self._covariance, self._tolerance = covariance, tolerance
        self._seeds = [np.clip(point, 0.0, 1.0) for point in seeds]
        middle = np.full(len(coordinates), 0.5)
        if descender and not seeds:
            self._seeds = [middle]
        self._run = None if self._seeds else self._started(middle, restarts.population, restarts.sigma)
        self._factor = factor
        self._ended: list[tuple[float, Vector]] = []  # best loss and centre of each finished run
        self._asked = 0
        self._arrivals = Arrivals()

    @property
    def population(self) -> int:
        """The population of the present run."""
        return self._run.population if self._run else self._restarts.population

    def descent(self, terms: Terms) -> Descent:
        """The requests of the descent, which may spend a share of the budget."""
        assert self._descender is not None
        return self._descender.run(replace(terms, allowance=self._share * terms.allowance))

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """The seeds, then one sampled generation per call."""
        self._begin_at_descent()
        if self._run is None:
            vectors = [point.copy() for point in self._seeds]
        elif surrogate and self._factor > 1:
            vectors = self._run.ask(surrogate, self._factor)
        else:
            vectors = self._run.ask()
        self._asked = len(vectors)
        return vectors

    def propose(self, surrogate: Surrogate | None = None) -> Vector:
        """The seeds one by one, then samples of the present distribution.

        While a seed is outstanding, samples are drawn around the best seed so far. With a surrogate model, a population
        is chosen at a time, among `factor` times as many points; what is left of it at an update is discarded.
        """
        self._begin_at_descent()
        arrivals, factor = self._arrivals, self._factor if surrogate else 1
        if arrivals.proposed < len(self._seeds):
            return arrivals.propose(self._seeds[arrivals.proposed]).copy()
        if self._run is None:
            return arrivals.propose(self._around_best_seed())
        if not arrivals.waiting:
            arrivals.waiting = self._run.sample(surrogate, factor)
        return self._run.inside(arrivals.propose(arrivals.waiting.pop(0)))

    def learn(self, number: int, loss: float) -> None:
        """Start the first run after the last seed; later update the run with each population of results.

        The oldest results come first, whatever distribution they were drawn from. Those of a run that has ended only
        count for its best loss.
        """
        arrivals = self._arrivals
        run, drawn = arrivals.take(number)
        if number <= len(self._seeds):
            arrivals.seed_losses[number - 1] = loss
            if len(arrivals.seed_losses) == len(self._seeds) and self._run is None:
                self._start_first([arrivals.seed_losses[place] for place in range(len(self._seeds))])
        elif run < len(self._ended):
            best, centre = self._ended[run]
            self._ended[run] = min(best, loss), centre
        else:
            arrivals.results.append((drawn, loss))
        while self._run and len(arrivals.results) >= self._run.population:
            self._update_run(self._run, self._run.population)

    def _update_run(self, run: "Strategy", count: int) -> None:
        batch, self._arrivals.results = self._arrivals.results[:count], self._arrivals.results[count:]
        self._arrivals.waiting = []
        run.update([drawn for drawn, _ in batch], [loss for _, loss in batch])
        if self._restart_if_ended(run):
            left = [loss for _, loss in self._arrivals.results]
            best, centre = self._ended[-1]
            self._ended[-1] = min([best, *left]), centre
            self._arrivals.results, self._arrivals.run = [], len(self._ended)

    def _around_best_seed(self) -> Vector:
        losses, sigma = self._arrivals.seed_losses, self._restarts.sigma
        best = min(losses, key=lambda place: losses[place]) if losses else None
        point = np.full(len(self._coordinates), 0.5) if best is None else self._seeds[best]
        return np.clip(point + sigma * self._normal(len(point)), 0.0, 1.0)

    def _begin_at_descent(self) -> None:
        if self._descender and self._descender.steps and self._run is None:
            self._seeds = [self._descender.average, self._descender.point]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Start the first run after the seeds; later update the run, and start the next one if it has ended."""
        if len(vectors) != self._asked:
            raise ValueError(f"told {len(vectors)} of {self._asked} vectors")
        if self._run is None:
            self._start_first(losses)
            return
        self._run.tell(losses)
        self._restart_if_ended(self._run)

    def _start_first(self, losses: Sequence[float]) -> None:
        best = int(np.argmin(losses))
        point = self._seeds[best] if math.isfinite(losses[best]) else np.full(len(self._coordinates), 0.5)
        self._run = self._started(point, self._restarts.population, *self._first_steps())

    def _restart_if_ended(self, run: "Strategy") -> bool:
        spent = run.generations * run.population
        if self._restarts.kind == "none" or not (run.has_ended(self._tolerance) or spent >= self._restarts.limit()):
            return False
        self._ended.append((run.best, run.centre()))
        point = self._restarts.generator.random(len(self._coordinates))
        self._run = self._started(point, *self._restarts.next(spent))
        return True

    def centre(self) -> Vector | None:
        """The mean of the run that has found the lowest loss; before the first run the end of the descent, or None."""
        runs = [*self._ended, *([(self._run.best, self._run.centre())] if self._run else [])]
        if runs:
            return min(runs, key=lambda run: run[0])[1]
        return self._descender.average if self._descender and self._descender.steps else None

    def _first_steps(self) -> tuple[float, Vector | None]:
        """The step size of the first run, and the relative lengths of its axes."""
        if not (self._descender and self._descender.steps):
            return self._restarts.sigma, None
        squares = self._descender.squares
        known = squares > 0
        scales = np.full(len(squares), 1 / AFTER_DESCENT)  # the descent has not moved axes without a slope
        if known.any():
            scales[known] = np.clip((squares[known] / np.median(squares[known])) ** -0.25, *SCALES)
        return AFTER_DESCENT * self._restarts.sigma, scales

    def _started(self, point: Vector, population: int, sigma: float, scales: Vector | None = None) -> "Strategy":
        from evomerge.optimizers._strategy import Start, Strategy  # cma takes seconds to import: not for a check

        return Strategy(Start(point, sigma, population, scales), self._coordinates, self._covariance, self._normal)

    def _normal(self, *size: int) -> Vector:
        """Normal variates from the seeded generator; cma's default is numpy's global random state."""
        return self._restarts.generator.standard_normal(size)


def uses_slopes(settings: Mapping[str, Any]) -> bool:
    """Whether a descent comes first."""
    return settings.get("start") == "slope"


def create(
    coordinates: Sequence[Coordinate],
    seeds: Sequence[Vector],
    seed: int,
    *,
    population: Annotated[int, Range(4, MAX_POPULATION)] | None = None,
    sigma: Annotated[float, Range(0, 1, without=(0,))] = 0.2,
    multiple_of: Annotated[int, Range(1, MAX_POPULATION)] = 1,
    covariance: Annotated[str, OneOf(COVARIANCES)] = "auto",
    restarts: Annotated[str, OneOf(KINDS)] = "none",
    tolerance: float = 0.002,
    screen: Annotated[int, Range(1, 100)] = 4,
    start: Annotated[str, OneOf(STARTS)] = "seeds",
    share: Annotated[float, Range(0, 1, without=(0,))] = 0.5,
    rate: Rate = 0.03,
    batch: Batch = 16,
    passes: Passes = 3,
    origin: Origin = "auto",
) -> CMA:
    """`population` None is 4 + ⌊1.5 ln n⌋; `sigma` is the first step size in units of the cube's edge.

    Populations are rounded up to a multiple of `multiple_of`, the number of workers. `covariance` auto is full below
    DIAGONAL_FROM dimensions, diagonal above. The surrogate model selects each generation from `screen` times as many
    points; 1 turns this off. With `restarts`, a run ends when all axes have a standard deviation below `tolerance`.
    With `start` slope, a descent with the settings of optimizer=slope comes first, for at most a `share` of the budget.
    Without it, ConfigError for a setting of the descent that is not at its default.
    """
    if not 0 < tolerance < sigma:
        raise ConfigError(f"optimizer.tolerance={tolerance}: give a step below sigma={sigma}, above 0")
    if covariance == "vd" and len(coordinates) < VD_FROM:
        raise ConfigError(
            f"optimizer.covariance=vd: for {VD_FROM} dimensions or more, the space has {len(coordinates)}"
        )
    if covariance == "auto":
        covariance = "full" if len(coordinates) < DIAGONAL_FROM else "diagonal"
    first = rounded_up(population or 4 + int(1.5 * math.log(len(coordinates))), multiple_of)
    plan = Restarts(restarts, first, sigma, multiple_of, np.random.default_rng(seed))
    descender = None
    given = {"share": share, "rate": rate, "batch": batch, "passes": passes, "origin": origin}
    if start == "slope":
        descender = Descender(coordinates, seeds, DescentSettings(rate, batch, passes, origin=origin), seed)
    elif changed := [name for name, value in given.items() if value != OF_A_DESCENT[name]]:
        raise ConfigError(f"optimizer.{changed[0]}: without a descent it has no effect; set optimizer.start=slope")
    return CMA(coordinates, seeds, plan, covariance, tolerance, screen, descender, share)
