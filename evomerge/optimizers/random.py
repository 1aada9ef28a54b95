"""Uniform random search: the baseline that any other optimizer has to beat."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.optimizers import Coordinate, Population, Vector

SEVERAL_OBJECTIVES = True  # it reads none of them


class Random:
    """Independent uniform points after the seeds; learns nothing."""

    def __init__(self, dimensions: int, seeds: Sequence[Vector], seed: int, population: int) -> None:
        self._dimensions, self._population = dimensions, population
        self._seeds = list(seeds)
        self._generator = np.random.default_rng(seed)

    def ask(self) -> list[Vector]:
        """What is left of the seeds, then uniform points."""
        first, self._seeds = self._seeds[: self._population], self._seeds[self._population :]
        fresh = self._generator.random((self._population - len(first), self._dimensions))
        return [*first, *fresh]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Nothing to learn."""

    def centre(self) -> None:
        """Nothing was learnt, so there is none."""


def create(
    coordinates: Sequence[Coordinate], seeds: Sequence[Vector], seed: int, *, population: Population = 8
) -> Random:
    """`population` points a generation."""
    return Random(len(coordinates), seeds, seed, population)
