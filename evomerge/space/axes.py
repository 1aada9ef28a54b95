"""The coordinates of one gene in one group, and how an experiment narrows a gene."""

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
from evomerge.space.simplex import from_cube, to_cube

Coefficient = Annotated[float, Range(-1e6, 1e6)]


@dataclass(frozen=True)
class Axes:
    """One row of coordinates per point of the schedule, one column per coordinate, from `start` on in the vector."""

    gene: Gene
    group: Group
    schedule: Schedule
    experts: tuple[int, ...]  # whose coefficients they are; empty for a gene that all experts share
    simplex: bool
    start: int

    @property
    def columns(self) -> int:
        """Coordinates of one row: a simplex needs one fewer than it has experts."""
        return max(1, len(self.experts)) - self.simplex

    @property
    def size(self) -> int:
        """Coordinates in all."""
        return self.schedule.points * self.columns

    def decode(self, vector: Vector) -> Vector:
        """Values [points, experts] at a point of the whole cube."""
        part = np.clip(vector[self.start : self.start + self.size], 0.0, 1.0)
        block = part.reshape(self.schedule.points, self.columns)
        if self.simplex:
            values = np.array([from_cube(row) for row in block])
        else:
            values = self.gene.low + block * (self.gene.high - self.gene.low)
        rounded: Vector = np.round(values, self.gene.decimals)
        return rounded

    def encode(self, value: float | Sequence[float]) -> Vector | None:
        """The coordinates at which every row has this value (one per expert, or one for all); None if out of range."""
        given = np.asarray(value, dtype=np.float64)
        wanted = given[list(self.experts)] if given.ndim and self.experts else np.full(max(1, len(self.experts)), given)
        row = self._on_simplex(wanted) if self.simplex else self._in_range(wanted)
        return None if row is None else np.tile(row, self.schedule.points)

    def nearest(self, values: Vector) -> Vector:
        """The coordinates of values [points, experts], each brought into the gene's range."""
        if self.simplex:
            weights = np.clip(values, 0.0, None)
            weights[weights.sum(axis=1) == 0.0] = 1.0
            return np.concatenate([to_cube(row / row.sum()) for row in weights])
        scaled = (values - self.gene.low) / (self.gene.high - self.gene.low)
        return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float64).reshape(-1)

    def _on_simplex(self, weights: Vector) -> Vector | None:
        total = float(weights.sum())
        return to_cube(weights / total) if total > 0 and (weights >= 0).all() else None

    def _in_range(self, values: Vector) -> Vector | None:
        low, high = self.gene.low, self.gene.high
        if (values < low - 1e-9).any() or (values > high + 1e-9).any():
            return None
        scaled: Vector = np.clip((values - low) / (high - low), 0.0, 1.0)
        return scaled


@dataclass(frozen=True, kw_only=True)
class GeneRange:
    """What an experiment says of a gene that it does not fix by a number alone; None is what the method says."""

    low: Coefficient | None = None
    high: Coefficient | None = None
    default: Coefficient | None = None
    value: Coefficient | None = None
    schedule: Spec | None = None


GeneSpec = Coefficient | GeneRange


def narrow(gene: Gene, override: Any, schedule: Any) -> tuple[Gene, float | None, Any]:
    """The gene with an experiment's range, its fixed value if it has one, and its schedule."""
    where = f"space.genes.{gene.name}"
    check_value(override, GeneSpec, where)
    if not isinstance(override, Mapping):
        return gene, float(override), schedule
    given = GeneRange(**override)
    if given.value is not None:
        if len(override) > 1:
            raise ConfigError(f"{where}: a gene fixed by value takes no other key")
        return gene, float(given.value), schedule
    low = gene.low if given.low is None else float(given.low)
    high = gene.high if given.high is None else float(given.high)
    if not low < high:
        raise ConfigError(f"{where}: low {low} must be below high {high}; fix a gene with `{gene.name}: value`")
    default = min(max(gene.default, low), high) if given.default is None else float(given.default)
    if not low <= default <= high:
        raise ConfigError(f"{where}.default={default}: outside of {low} to {high}")
    return replace(gene, low=low, high=high, default=default), None, given.schedule or schedule
