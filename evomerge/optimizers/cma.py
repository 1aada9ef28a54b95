"""CMA-ES (Hansen, arXiv 1604.00772) by the `cma` package, inside the unit cube."""

import math
import warnings
from collections.abc import Sequence

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimizers import Vector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cma warns at import where matplotlib is missing
    import cma


class CMA:
    """One run of CMA-ES; `seeds` open the first generations, the rest is sampled.

    A generation keeps one sampled point at least: cma learns nothing about its step size from injected ones.
    """

    def __init__(
        self,
        dimensions: int,
        seeds: Sequence[Vector],
        seed: int,
        population: int | None,
        sigma: float,
    ) -> None:
        self._padding = max(0, 2 - dimensions)  # cma needs two dimensions
        size = dimensions + self._padding
        options = {"randn": _Randn(seed), "bounds": [0, 1], "popsize": population, "verbose": -10}
        start = np.full(size, 0.5)
        if seeds:
            start[:dimensions] = np.clip(seeds[0], 0.05, 0.95)
        self._strategy = cma.CMAEvolutionStrategy(start, sigma, options)
        self._seeds = [np.clip(point, 0.0, 1.0) for point in seeds]
        self._asked: list[np.ndarray] = []

    def ask(self) -> list[Vector]:
        """What is left of the seeds, then samples, clipped where cma's bound handling leaves rounding crumbs."""
        most = self._strategy.popsize - 1
        first, self._seeds = self._seeds[:most], self._seeds[most:]
        self._strategy.inject([self._inject(point) for point in first], force=True)
        self._asked = [np.array(x, dtype=np.float64) for x in self._strategy.ask()]
        end = len(self._asked[0]) - self._padding
        return [*first, *(np.clip(x, 0.0, 1.0)[:end] for x in self._asked[len(first) :])]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Update mean, step size and covariance; told exactly what was asked, or the active update is lost."""
        finite = [loss for loss in losses if math.isfinite(loss)]
        if len(vectors) != len(self._asked):
            raise ValueError(f"told {len(vectors)} of {len(self._asked)} vectors")
        if finite:  # a generation of failures teaches nothing
            self._strategy.tell(self._asked, list(losses))

    def centre(self) -> Vector:
        """The mean of the distribution, inside the bounds."""
        favourite = np.asarray(self._strategy.result.xfavorite, dtype=np.float64)
        return np.clip(favourite, 0.0, 1.0)[: len(favourite) - self._padding]

    def _inject(self, point: Vector) -> Vector:
        """The point in cma's own coordinates, which bend near the bounds."""
        padded = np.concatenate([point, np.full(self._padding, 0.5)])
        return np.asarray(self._strategy.boundary_handler.inverse(padded), dtype=np.float64)


class _Randn:
    """cma's normal variates from a stream of our own: its default is numpy's global one."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, *size: int) -> Vector:
        return self._generator.standard_normal(size)


def create(
    dimensions: int,
    seeds: Sequence[Vector],
    seed: int,
    *,
    population: int | None = None,
    sigma: float = 0.2,
) -> CMA:
    """`population` None is 4 + ⌊3 ln n⌋; `sigma` is the first step size in units of the cube's edge."""
    if population is not None and population < 4:
        raise ConfigError(f"optimizer.population={population}: CMA-ES needs at least 4")
    if not 0 < sigma <= 1:
        raise ConfigError(f"optimizer.sigma={sigma}: give a step size in (0, 1]")
    return CMA(dimensions, seeds, seed, population, sigma)
