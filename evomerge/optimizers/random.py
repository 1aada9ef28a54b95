"""Uniform random search, the baseline for all other optimizers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.optimizers import Coordinate, Population, Surrogate, Vector

SEVERAL_OBJECTIVES = True  # losses are ignored, so their number does not matter


class Random:
    """The seeds, then independent uniform points; losses are ignored."""

    def __init__(self, dimensions: int, seeds: Sequence[Vector], seed: int, population: int) -> None:
        self._dimensions, self._population = dimensions, population
        self._seeds = list(seeds)
        self._generator = np.random.default_rng(seed)

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """The remaining seeds, then uniform points."""
        first, self._seeds = self._seeds[: self._population], self._seeds[self._population :]
        fresh = self._generator.random((self._population - len(first), self._dimensions))
        return [*first, *fresh]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Ignore the losses."""

    def centre(self) -> None:
        """None: there is no estimate of the optimum."""


def create(
    coordinates: Sequence[Coordinate], seeds: Sequence[Vector], seed: int, *, population: Population = 8
) -> Random:
    """`population` points per generation."""
    return Random(len(coordinates), seeds, seed, population)
