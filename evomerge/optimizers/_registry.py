"""Optimizers by their names, made from the settings of an experiment."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from evomerge.atomic import refuse_unwritable
from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Optimizer, Vector
from evomerge.plugins import load_plugin, plugin_names
from evomerge.schema import Location, check_section, check_value, naming


def names() -> tuple[str, ...]:
    """Every optimizer of this folder, sorted."""
    return plugin_names("optimizers")


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
    given = {key: value for key, value in settings.items() if key != "mirror"}
    check_section(load_plugin("optimizers", name, "optimizer").create, given, "optimizer", given=("objectives",))
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
