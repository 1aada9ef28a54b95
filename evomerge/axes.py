"""The coordinates of one gene in one group, and how an experiment narrows a gene."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError
from evomerge.groups import Group
from evomerge.methods import Gene
from evomerge.schedules import Schedule
from evomerge.simplex import from_cube, to_cube
from evomerge.suggest import nearest

Vector = NDArray[np.float64]
GENE_KEYS = ("low", "high", "default", "value", "schedule")


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


def narrow(gene: Gene, override: Any, schedule: Any) -> tuple[Gene, float | None, Any]:
    """The gene with an experiment's range, its fixed value if it has one, and its schedule."""
    where = f"space.genes.{gene.name}"
    if _is_number(override):
        return gene, float(override), schedule
    if not isinstance(override, Mapping):
        raise ConfigError(f"{where}={override}: give a number, or a mapping with {', '.join(GENE_KEYS)}")
    for key, value in override.items():
        if key not in GENE_KEYS:
            raise ConfigError(f"{where}.{key} is unknown{nearest(key, GENE_KEYS)}; it takes {', '.join(GENE_KEYS)}")
        if key != "schedule" and not _is_number(value):
            raise ConfigError(f"{where}.{key}={value}: give a number")
    if "value" in override:
        if len(override) > 1:
            raise ConfigError(f"{where}: a gene fixed by value takes no other key")
        return gene, float(override["value"]), schedule
    low, high = float(override.get("low", gene.low)), float(override.get("high", gene.high))
    if not low < high:
        raise ConfigError(f"{where}: low {low} must be below high {high}; fix a gene with `{gene.name}: value`")
    default = float(override.get("default", min(max(gene.default, low), high)))
    if not low <= default <= high:
        raise ConfigError(f"{where}.default={default}: outside of {low} to {high}")
    return replace(gene, low=low, high=high, default=default), None, override.get("schedule", schedule)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
