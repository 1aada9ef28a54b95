"""Ask/tell over the unit cube: one file per optimizer, found by being in this folder.

An optimizer sees vectors and losses (lower is better), never models or scores. It is re-created from its seed and told
the same losses on resume, so it must be deterministic and keep its own random stream.
"""

import importlib
import inspect
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

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """The losses of a whole generation, in the order asked; a failed candidate's is +inf.

        A loss is a float; of several objectives, for a module that says SEVERAL_OBJECTIVES, a tuple of them.
        """

    def centre(self) -> Vector | None:
        """Where the optimizer believes the optimum to be, which noise moves less than its best point; None if nowhere.

        A point of the unit cube.
        """


def names() -> tuple[str, ...]:
    """Every optimizer of this folder, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def create(
    name: str,
    dimensions: int,
    seeds: Sequence[Vector],
    seed: int,
    settings: Mapping[str, Any],
    objectives: int = 1,
) -> Optimizer:
    """The optimizer of this name; `seeds` are points to try first.

    ConfigError names an unknown setting, and an optimizer that cannot take several objectives.
    """
    if name not in names():
        raise ConfigError(f"optimizer {name!r} is not known{nearest(name, names())}; choose of {', '.join(names())}")
    module = _module(name)
    check_section(module.create, settings, "optimizer", given=("objectives",))
    given = dict(settings)
    if objectives > 1:
        if not takes_several(name):
            able = ", ".join(other for other in names() if takes_several(other))
            raise ConfigError(f"objective.front: optimizer={name} takes one objective; choose of {able}")
        if "objectives" in inspect.signature(module.create).parameters:  # random points need not know
            given["objectives"] = objectives
    return cast(Optimizer, module.create(dimensions, seeds, seed, **given))


def takes_several(name: str) -> bool:
    """Whether the optimizer can be told several losses of a candidate."""
    return bool(getattr(_module(name), "SEVERAL_OBJECTIVES", False))


def _module(name: str) -> Any:
    return importlib.import_module(f"evomerge.optimizers.{name}")
