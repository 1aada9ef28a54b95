"""The coordinates of one gene in one group, and the range of a gene as an experiment sets it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.methods import Gene
from evomerge.models import Group
from evomerge.optimizers import Vector
from evomerge.schema import Range, check_value
from evomerge.space.schedules import Schedule, Spec
from evomerge.space.simplex import from_cube, jacobian, to_cube

Coefficient = Annotated[float, Range(-1e6, 1e6)]


@dataclass(frozen=True)
class Axes:
    """The coordinates of one gene in one group: a block [schedule points, columns] of the vector, from `start` on."""

    gene: Gene
    group: Group
    schedule: Schedule
    experts: tuple[int, ...]  # indices, one value for each; empty for a gene that all experts share
    simplex: bool
    start: int

    @property
    def columns(self) -> int:
        """Coordinates per point of the schedule: one per expert, or one fewer on a simplex."""
        return max(1, len(self.experts)) - self.simplex

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return self.schedule.points * self.columns

    def decode(self, vector: Vector) -> Vector:
        """The gene's values [schedule points, experts] at a point of the cube; `vector` has all coordinates."""
        coordinates = np.clip(vector[self.start : self.start + self.size], 0.0, 1.0)
        block = coordinates.reshape(self.schedule.points, self.columns)
        if self.gene.values:
            cells = np.minimum((block * len(self.gene.values)).astype(np.int64), len(self.gene.values) - 1)
            return np.array(self.gene.values)[cells]
        if self.simplex:
            values = np.array([from_cube(row) for row in block])
        else:
            values = self.gene.low + block * (self.gene.high - self.gene.low)
        rounded: Vector = np.round(values, self.gene.decimals)
        return rounded

    def pull_back(self, vector: Vector, derivatives: Vector) -> Vector:
        """The derivatives [coordinates] at a point, from those with respect to the values [schedule points, experts].

        Those outside of the cube are those of its border; the rounding of values is ignored.
        """
        if not self.gene.slope:
            return np.zeros(self.size)
        if not self.simplex:
            return (derivatives * (self.gene.high - self.gene.low)).reshape(-1)
        block = np.clip(vector[self.start : self.start + self.size], 0.0, 1.0).reshape(self.schedule.points, -1)
        return np.concatenate([jacobian(row).T @ slopes for row, slopes in zip(block, derivatives, strict=True)])

    def encode(self, value: float | Sequence[float]) -> Vector | None:
        """The coordinates that give this value at every point of the schedule, or None if it is out of range.

        `value` is a number for all experts, or one per expert of the space.
        """
        array = np.asarray(value, dtype=np.float64)
        values = array[list(self.experts)] if array.ndim and self.experts else np.full(max(1, len(self.experts)), array)
        row = self._on_simplex(values) if self.simplex else self._in_range(values)
        return None if row is None else np.tile(row, self.schedule.points)

    def nearest(self, values: Vector) -> Vector:
        """The coordinates of values [schedule points, experts], after these are clipped to the gene's range."""
        if self.simplex:
            weights = np.clip(values, 0.0, None)
            weights[weights.sum(axis=1) == 0.0] = 1.0
            return np.concatenate([to_cube(row / row.sum()) for row in weights])
        if self.gene.values:
            distances = np.abs(values.reshape(-1, 1) - np.array(self.gene.values))
            return np.asarray((distances.argmin(1) + 0.5) / len(self.gene.values), dtype=np.float64)
        scaled = (values - self.gene.low) / (self.gene.high - self.gene.low)
        return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float64).reshape(-1)

    def _on_simplex(self, weights: Vector) -> Vector | None:
        total = float(weights.sum())
        return to_cube(weights / total) if total > 0 and (weights >= 0).all() else None

    def _in_range(self, values: Vector) -> Vector | None:
        low, high = self.gene.low, self.gene.high
        if self.gene.values:
            cells = self.nearest(values)
            chosen = np.array(self.gene.values)[(cells * len(self.gene.values)).astype(np.int64)]
            return cells if np.allclose(chosen, values, rtol=0.0, atol=1e-9) else None
        if (values < low - 1e-9).any() or (values > high + 1e-9).any():
            return None
        scaled: Vector = np.clip((values - low) / (high - low), 0.0, 1.0)
        return scaled


@dataclass(frozen=True, kw_only=True)
class GeneRange:
    """The settings of a gene in an experiment; None means the method's own. `values` are the only ones it may take."""

    low: Coefficient | None = None
    high: Coefficient | None = None
    default: Coefficient | None = None
    value: Coefficient | None = None
    values: Sequence[Coefficient] | None = None
    schedule: Spec | None = None


GeneSpec = Coefficient | GeneRange


def narrow(gene: Gene, override: Any, schedule: Any) -> tuple[Gene, float | None, Any]:
    """The gene with the experiment's range and default, its fixed value or None, and its schedule.

    `override` is what the experiment sets for the gene: a number fixes it, a mapping has the keys of GeneRange.
    """
    where = f"space.genes.{gene.name}"
    check_value(override, GeneSpec, where)
    if not isinstance(override, Mapping):
        return gene, float(override), schedule
    settings = GeneRange(**override)
    if settings.value is not None:
        if len(override) > 1:
            raise ConfigError(f"{where}: a gene fixed by value takes no other key")
        return gene, float(settings.value), schedule
    if settings.values is not None:
        return _with_values(gene, settings, where), None, settings.schedule or schedule
    low = gene.low if settings.low is None else float(settings.low)
    high = gene.high if settings.high is None else float(settings.high)
    if not low < high:
        raise ConfigError(f"{where}: low {low} must be below high {high}; fix a gene with `{gene.name}: value`")
    default = min(max(gene.default, low), high) if settings.default is None else float(settings.default)
    if not low <= default <= high:
        raise ConfigError(f"{where}.default={default}: outside of {low} to {high}")
    return replace(gene, low=low, high=high, default=default), None, settings.schedule or schedule


def _with_values(gene: Gene, settings: GeneRange, where: str) -> Gene:
    """The gene with a list of values instead of a range; its default is the nearest to the method's, or the given."""
    values = tuple(sorted(set(map(float, settings.values or ()))))
    if settings.low is not None or settings.high is not None or len(values) < 2:
        raise ConfigError(f"{where}: list at least two values, without low and high")
    wanted = gene.default if settings.default is None else float(settings.default)
    default = min(values, key=lambda value: abs(value - wanted))
    if settings.default is not None and default != wanted:
        raise ConfigError(f"{where}.default={wanted}: not one of its values")
    return replace(gene, low=values[0], high=values[-1], default=default, values=values, slope=False)
