"""Scrambled Sobol points (Owen 1998) from torch: random search with even coverage in few dimensions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Population, Surrogate, Vector

if TYPE_CHECKING:
    from torch.quasirandom import SobolEngine

SEVERAL_OBJECTIVES = True  # losses are ignored, so their number does not matter
ASYNCHRONOUS = True


class Sobol:
    """The seeds, then a low-discrepancy sequence; losses are ignored."""

    def __init__(self, engine: "SobolEngine", seeds: Sequence[Vector], population: int) -> None:
        self.population = population
        self._seeds = list(seeds)
        self._engine = engine

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """The remaining seeds, then the next points of the sequence."""
        return self._next(self.population)

    def propose(self, surrogate: Surrogate | None = None) -> Vector:
        """The remaining seeds, then the next point of the sequence."""
        return self._next(1)[0]

    def _next(self, count: int) -> list[Vector]:
        first, self._seeds = self._seeds[:count], self._seeds[count:]
        drawn = count - len(first)
        fresh = self._engine.draw(drawn).numpy().astype(np.float64) if drawn else np.empty((0, 0))
        return [*first, *fresh]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Ignore the losses."""

    def learn(self, number: int, loss: Any) -> None:
        """Ignore the loss."""

    def centre(self) -> None:
        """None: there is no estimate of the optimum."""


def create(
    coordinates: Sequence[Coordinate], seeds: Sequence[Vector], seed: int, *, population: Population = 8
) -> Sobol:
    """`population` points per generation."""
    from torch.quasirandom import SobolEngine  # the settings of an optimizer are checked before torch is loaded

    if len(coordinates) > SobolEngine.MAXDIM:
        raise ConfigError(
            f"optimizer=sobol: at most {SobolEngine.MAXDIM} dimensions, the space has {len(coordinates)}; "
            "use random or cma"
        )
    return Sobol(SobolEngine(len(coordinates), scramble=True, seed=seed), seeds, population)
