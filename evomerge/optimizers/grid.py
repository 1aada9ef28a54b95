"""Pattern search on a grid, for few genes (Hooke & Jeeves 1961; Torczon 1997).

The neighbours of the best point so far are tried: each coordinate one step up and one step down. If none is better, the
step is halved, until it is below `finest`. No point is tried twice.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np

from evomerge.optimizers import Coordinate, Population, Surrogate, Vector
from evomerge.schema import Range

ASYNCHRONOUS = True


class Grid:
    """The seeds, then the neighbours of the best point, `population` at a time."""

    def __init__(
        self,
        coordinates: Sequence[Coordinate],
        seeds: Sequence[Vector],
        order: Sequence[int],
        population: int,
        finest: float,
    ) -> None:
        self._coordinates, self._order = tuple(coordinates), tuple(order)
        self.population, self._finest = population, finest
        self._step = 0.25
        self._best, self._loss = np.full(len(coordinates), 0.5), math.inf
        self._waiting = [np.clip(point, 0.0, 1.0) for point in seeds] or [self._best]
        self._tried: set[tuple[float, ...]] = set()
        self._better = True  # whether the best point has changed since its neighbours were listed
        self._outstanding: dict[int, Vector] = {}  # number of a proposed point → the point
        self._proposed = 0

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """The next untried neighbours; an empty list if there are none at the finest step."""
        return self._next(self.population)

    def propose(self, surrogate: Surrogate | None = None) -> Vector | None:
        """The next untried neighbour; None while the step cannot be chosen, because results are outstanding."""
        if self._outstanding and not self._waiting:
            return None
        if not (found := self._next(1)):
            return None
        self._proposed += 1
        self._outstanding[self._proposed] = found[0]
        return found[0]

    def _next(self, count: int) -> list[Vector]:
        while not self._waiting and self._next_step():
            self._waiting = [p for p in self._neighbours() if tuple(p.tolist()) not in self._tried]
        asked, self._waiting = self._waiting[:count], self._waiting[count:]
        self._tried |= {tuple(point.tolist()) for point in asked}
        return [point.copy() for point in asked]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Move to the best point of the generation if it is better than the best point so far."""
        for vector, loss in zip(vectors, losses, strict=True):
            if loss < self._loss:
                self._best, self._loss, self._better = vector.copy(), loss, True

    def learn(self, number: int, loss: Any) -> None:
        """Move to the point with this number if it is better than the best point so far."""
        self.tell([self._outstanding.pop(number)], [loss])

    def centre(self) -> None:
        """None: the estimate is the best point itself."""

    def _next_step(self) -> bool:
        """Keep the step if it has improved the best point, else halve it; False if it is below the finest."""
        self._step = self._step if self._better else self._step / 2
        self._better = False
        return self._step >= self._finest

    def _neighbours(self) -> Iterator[Vector]:
        for place in self._order:
            for value in self._values(self._coordinates[place], float(self._best[place])):
                point = self._best.copy()
                point[place] = value
                yield point

    def _values(self, coordinate: Coordinate, x: float) -> list[float]:
        """One step up and one down; for an axis with levels the adjacent cells, or all other categories."""
        if not coordinate.levels:
            return [min(x + self._step, 1.0), max(x - self._step, 0.0)]
        cell = min(int(x * coordinate.levels), coordinate.levels - 1)
        cells = [cell + 1, cell - 1] if coordinate.ordered else list(range(coordinate.levels))
        return [(i + 0.5) / coordinate.levels for i in cells if 0 <= i < coordinate.levels and i != cell]


def create(
    coordinates: Sequence[Coordinate],
    seeds: Sequence[Vector],
    seed: int,
    *,
    population: Population = 8,
    finest: Annotated[float, Range(1e-9, 0.25)] = 0.005,
) -> Grid:
    """`population` points per generation; `finest` is the smallest step, in units of the cube's edge.

    The seed determines the order in which the axes are tried.
    """
    order = np.random.default_rng(seed).permutation(len(coordinates)).tolist()
    return Grid(coordinates, seeds, order, population, finest)
