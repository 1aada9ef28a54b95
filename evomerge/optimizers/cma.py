"""CMA-ES inside the unit cube: the seeds, a run from the best of them, and restarts where they are wanted."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimizers import LARGEST, Coordinate, Vector
from evomerge.optimizers._restarts import KINDS, Restarts, rounded_up
from evomerge.optimizers._surrogate import Surrogate
from evomerge.schema import OneOf, Range

if TYPE_CHECKING:
    from evomerge.optimizers._strategy import Strategy

COVARIANCES = ("auto", "full", "diagonal", "vd")
DIAGONAL_FROM = 24  # dimensions: from here on a full matrix learns too slowly for a thousand candidates
VD_FROM = 10


class CMA:
    """The seeds are the first generation, and the best of them is where the first run begins."""

    def __init__(
        self,
        coordinates: Sequence[Coordinate],
        seeds: Sequence[Vector],
        restarts: Restarts,
        covariance: str,
        tolerance: float,
        factor: int,
    ) -> None:
        self._coordinates, self._restarts = tuple(coordinates), restarts
        self._covariance, self._tolerance = covariance, tolerance
        self._seeds = [np.clip(point, 0.0, 1.0) for point in seeds]
        self._run = (
            None if seeds else self._started(np.full(len(coordinates), 0.5), restarts.population, restarts.sigma)
        )
        self._screen, self._factor = (Surrogate() if factor > 1 else None), factor
        self._ended: list[tuple[float, Vector]] = []  # best loss and centre of each run before
        self._asked = 0

    def ask(self) -> list[Vector]:
        """The seeds, then a sampled generation at a time."""
        vectors = self._run.ask(self._screen, self._factor) if self._run else [point.copy() for point in self._seeds]
        self._asked = len(vectors)
        return vectors

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Begin at the best seed, learn from a generation, or begin anew where a run has ended."""
        if len(vectors) != self._asked:
            raise ValueError(f"told {len(vectors)} of {self._asked} vectors")
        if self._screen:
            self._screen.tell(vectors, losses)
        if self._run is None:
            best = int(np.argmin(losses))
            point = self._seeds[best] if math.isfinite(losses[best]) else np.full(len(self._coordinates), 0.5)
            self._run = self._started(point, self._restarts.population, self._restarts.sigma)
            return
        self._run.tell(losses)
        spent = self._run.generations * self._run.population
        if self._restarts.kind != "none" and (self._run.has_ended(self._tolerance) or spent >= self._restarts.limit()):
            self._ended.append((self._run.best, self._run.centre()))
            point = self._restarts.generator.random(len(self._coordinates))
            self._run = self._started(point, *self._restarts.next(spent))

    def centre(self) -> Vector | None:
        """The mean of the run that has found the best point; None before the first."""
        runs = [*self._ended, *([(self._run.best, self._run.centre())] if self._run else [])]
        return min(runs, key=lambda run: run[0])[1] if runs else None

    def _started(self, point: Vector, population: int, sigma: float) -> "Strategy":
        from evomerge.optimizers._strategy import Start, Strategy  # cma takes seconds to import: not for a check

        return Strategy(Start(point, sigma, population), self._coordinates, self._covariance, self._normal)

    def _normal(self, *size: int) -> Vector:
        """Normal variates from a stream of our own: cma's default is numpy's global one."""
        return self._restarts.generator.standard_normal(size)


def create(
    coordinates: Sequence[Coordinate],
    seeds: Sequence[Vector],
    seed: int,
    *,
    population: Annotated[int, Range(4, LARGEST)] | None = None,
    sigma: Annotated[float, Range(0, 1, without=(0,))] = 0.2,
    multiple_of: Annotated[int, Range(1, LARGEST)] = 1,
    covariance: Annotated[str, OneOf(COVARIANCES)] = "auto",
    restarts: Annotated[str, OneOf(KINDS)] = "none",
    tolerance: float = 0.002,
    screen: Annotated[int, Range(1, 100)] = 4,
) -> CMA:
    """`population` None is 4 + ⌊1.5 ln n⌋; `sigma` is the first step size in units of the cube's edge.

    Populations are rounded up to a `multiple_of` the workers. `covariance` auto is full below DIAGONAL_FROM dimensions.
    Of `screen` times as many points a model of what is known keeps the most promising; with 1 every one is a candidate.
    A run ends, where `restarts` has another follow it, when no axis varies by `tolerance`.
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
    return CMA(coordinates, seeds, plan, covariance, tolerance, screen)
