"""Scrambled Sobol points (Owen 1998) by torch: random search that leaves no hole in few dimensions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Population, Vector

if TYPE_CHECKING:
    from torch.quasirandom import SobolEngine

SEVERAL_OBJECTIVES = True  # it reads none of them


class Sobol:
    """A low-discrepancy sequence after the seeds; learns nothing."""

    def __init__(self, engine: "SobolEngine", seeds: Sequence[Vector], population: int) -> None:
        self._population = population
        self._seeds = list(seeds)
        self._engine = engine

    def ask(self) -> list[Vector]:
        """What is left of the seeds, then the next points of the sequence."""
        first, self._seeds = self._seeds[: self._population], self._seeds[self._population :]
        count = self._population - len(first)
        fresh = self._engine.draw(count).numpy().astype(np.float64) if count else np.empty((0, 0))
        return [*first, *fresh]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Nothing to learn."""

    def centre(self) -> None:
        """Nothing was learnt, so there is none."""


def create(
    coordinates: Sequence[Coordinate], seeds: Sequence[Vector], seed: int, *, population: Population = 8
) -> Sobol:
    """`population` points a generation."""
    from torch.quasirandom import SobolEngine  # the settings of an optimizer are checked before torch is loaded

    if len(coordinates) > SobolEngine.MAXDIM:
        raise ConfigError(
            f"optimizer=sobol: at most {SobolEngine.MAXDIM} dimensions, the space has {len(coordinates)}; "
            "use random or cma"
        )
    return Sobol(SobolEngine(len(coordinates), scramble=True, seed=seed), seeds, population)
