"""Schedules, by which a coefficient varies over the layers: `all`, `each`, `blocks:n`, `knots:n`.

A schedule expands the searched values of a gene to a setting of a recipe: a scalar or a gradient.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import ConfigError
from evomerge.recipes import Scalar, evaluate
from evomerge.schema import as_yaml

Spec = str | Mapping[str, int]  # a schedule in a configuration


@dataclass(frozen=True)
class Schedule:
    """A schedule of one kind: `points` values for `layers` layers."""

    kind: str
    points: int
    layers: int

    @classmethod
    def parse(cls, spec: Any, layers: int, key: str) -> "Schedule":
        """Read `all`, `each`, `blocks:n` or `knots:n`, or the last two as mappings; ConfigError names `key`."""
        if spec in ("all", "each"):
            return cls(spec, 1 if spec == "all" else layers, layers)
        kind, points = _kind_and_points(spec)
        if kind in ("blocks", "knots") and 1 <= points <= layers:
            return cls(kind, points, layers)
        raise ConfigError(f"{key}={as_yaml(spec)}: choose all, each, blocks:n or knots:n with 1 ≤ n ≤ {layers} layers")

    def expand(self, values: Sequence[float]) -> Scalar | tuple[Scalar, ...]:
        """The recipe's setting: knots stay a gradient that the merge interpolates; blocks give one value per layer."""
        if self.points == 1:
            return values[0]
        if self.kind == "blocks":
            return tuple(values[layer * self.points // self.layers] for layer in range(self.layers))
        return tuple(values)

    def weights(self, depth: float) -> list[float]:
        """The weight of each point in the value of a tensor at this relative depth."""
        units = ([float(point == other) for other in range(self.points)] for point in range(self.points))
        return [float(evaluate(self.expand(unit), ("",), depth) or 0.0) for unit in units]


def _kind_and_points(spec: Any) -> tuple[str, int]:
    if isinstance(spec, Mapping) and len(spec) == 1:
        kind, points = next(iter(spec.items()))
    else:
        kind, _, points = str(spec).partition(":")
    return str(kind).strip(), int(points) if re.fullmatch(r" *[0-9]{1,9} *", str(points)) else 0
