"""Ask/tell over the unit cube: one file per optimizer, found by being in this folder.

An optimizer sees vectors and losses (lower is better), never models or scores. It is re-created from its seed and told
the same losses on resume, so it must be deterministic and keep its own random stream.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from evomerge.atomic import refuse_unwritable
from evomerge.errors import ConfigError
from evomerge.schema import Location, Range, check_section, check_value, naming, shown
from evomerge.suggest import nearest

Vector = NDArray[np.float64]
LARGEST = 10_000  # candidates of one generation
Population = Annotated[int, Range(1, LARGEST)]


@dataclass(frozen=True)
class Coordinate:
    """One axis of the cube: its name, and how many values it has, each a cell of equal width; 0 is a continuum.

    Values without an order are categories: a neighbouring cell is no nearer than any other.
    """

    name: str
    levels: int = 0
    ordered: bool = True


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
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def create(
    name: str,
    coordinates: Sequence[Coordinate],
    seeds: Sequence[Vector],
    seed: int,
    settings: Mapping[str, Any],
    objectives: int = 1,
) -> Optimizer:
    """The optimizer of this name; `seeds` are points to try first.

    With `mirror`, a path, its trials also go into an Optuna journal there. ConfigError names an unknown setting, and an
    optimizer that cannot take several objectives.
    """
    check(name, settings)
    module = _module(name)
    given = {key: value for key, value in settings.items() if key != "mirror"}
    if objectives > 1:
        if not takes_several(name):
            able = ", ".join(other for other in names() if takes_several(other))
            raise ConfigError(f"objective.front: optimizer={name} takes one objective; choose of {able}")
        if "objectives" in inspect.signature(module.create).parameters:  # random points need not know
            given["objectives"] = objectives
    optimizer = cast(Optimizer, module.create(coordinates, seeds, seed, **given))
    if mirror := settings.get("mirror"):
        return cast(Optimizer, _module("_mirror").Mirrored(optimizer, coordinates, Path(mirror)))
    return optimizer


def check(name: str, settings: Mapping[str, Any]) -> None:
    """ConfigError for an unknown optimizer or setting, or a mirror that cannot be written; makes nothing."""
    if name not in names():
        raise ConfigError(
            f"optimizer '{shown(name)}' is not known{nearest(name, names())}; choose of {', '.join(names())}"
        )
    given = {key: value for key, value in settings.items() if key != "mirror"}
    check_section(_module(name).create, given, "optimizer", given=("objectives",))
    mirror = settings.get("mirror")
    check_value(mirror, Location | None, "optimizer.mirror")
    if mirror:
        with naming("optimizer.mirror"):
            refuse_unwritable(Path(mirror))


def takes_several(name: str) -> bool:
    """Whether the optimizer can be told several losses of a candidate."""
    return bool(getattr(_module(name), "SEVERAL_OBJECTIVES", False))


def _module(name: str) -> Any:
    return importlib.import_module(f"evomerge.optimizers.{name}")
