"""Ask/tell over the unit cube: one file per optimizer, found by being in this folder.

An optimizer sees vectors and losses (lower is better), never models or scores. It is re-created from its seed and told
the same losses on resume, so it must be deterministic and keep its own random stream.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError
from evomerge.schema import check_section
from evomerge.suggest import nearest

Vector = NDArray[np.float64]


class Optimizer(Protocol):
    """What `create` in each file of this folder returns."""

    def ask(self) -> list[Vector]:
        """One generation of points of the unit cube; an empty list when there is nothing left to try."""

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """The losses of a whole generation, in the order asked; a failed candidate's is +inf."""


def names() -> tuple[str, ...]:
    """Every optimizer of this folder, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def create(name: str, dimensions: int, seeds: Sequence[Vector], seed: int, settings: Mapping[str, Any]) -> Optimizer:
    """The optimizer of this name; `seeds` are points to try first; ConfigError names an unknown setting."""
    if name not in names():
        raise ConfigError(f"optimizer {name!r} is not known{nearest(name, names())}; choose of {', '.join(names())}")
    factory = importlib.import_module(f"evomerge.optimizers.{name}").create
    check_section(factory, settings, "optimizer")
    return cast(Optimizer, factory(dimensions, seeds, seed, **settings))
