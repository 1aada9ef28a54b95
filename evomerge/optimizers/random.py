"""Uniform random search, the baseline for all other optimizers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.optimizers import Coordinate, Population, Surrogate, Vector

SEVERAL_OBJECTIVES = True  # losses are ignored, so their number does not matter
ASYNCHRONOUS = True


class Random:
    """The seeds, then independent uniform points; losses are ignored."""

    def __init__(self, dimensions: int, seeds: Sequence[Vector], seed: int, population: int) -> None:
        self._dimensions, self.population = dimensions, population
        self._seeds = list(seeds)
        self._generator = np.random.default_rng(seed)

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """The remaining seeds, then uniform points."""
        return self._next(self.population)

    def propose(self, surrogate: Surrogate | None = None) -> Vector:
        """The remaining seeds, then a uniform point."""
        return self._next(1)[0]

    def _next(self, count: int) -> list[Vector]:
        first, self._seeds = self._seeds[:count], self._seeds[count:]
        fresh = self._generator.random((count - len(first), self._dimensions))
        return [*first, *fresh]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Ignore the losses."""

    def learn(self, number: int, loss: Any) -> None:
        """Ignore the loss."""

    def centre(self) -> None:
        """None: there is no estimate of the optimum."""


def create(
    coordinates: Sequence[Coordinate], seeds: Sequence[Vector], seed: int, *, population: Population = 8
) -> Random:
    """`population` points per generation."""
    return Random(len(coordinates), seeds, seed, population)
