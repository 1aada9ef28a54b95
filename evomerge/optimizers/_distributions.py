"""Conversion between points of the cube and Optuna parameters: a float, an integer or a category per coordinate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from evomerge.optimizers import Coordinate, Vector


class Parameters:
    """One Optuna parameter per coordinate, with the coordinate's name and a distribution of its type."""

    def __init__(self, coordinates: Sequence[Coordinate]) -> None:
        self._coordinates = tuple(coordinates)
        self.distributions = {c.name: _distribution(c) for c in coordinates}

    def of(self, vector: Vector) -> dict[str, Any]:
        """The parameters of a point; an axis with levels gives the index of the cell that contains the point."""
        return {c.name: _parameter(c, float(x)) for c, x in zip(self._coordinates, vector, strict=True)}

    def vector(self, parameters: Mapping[str, Any]) -> Vector:
        """The point of some parameters; the index of a cell gives the middle of the cell."""
        return np.array([_coordinate(c, parameters[c.name]) for c in self._coordinates], dtype=np.float64)


def _distribution(coordinate: Coordinate) -> BaseDistribution:
    if not coordinate.levels:
        return FloatDistribution(0.0, 1.0)
    if coordinate.ordered:
        return IntDistribution(0, coordinate.levels - 1)
    return CategoricalDistribution(list(range(coordinate.levels)))


def _parameter(coordinate: Coordinate, x: float) -> float | int:
    return min(int(x * coordinate.levels), coordinate.levels - 1) if coordinate.levels else x


def _coordinate(coordinate: Coordinate, value: float | int) -> float:
    return (value + 0.5) / coordinate.levels if coordinate.levels else float(value)
