"""The registry of optimizers: their names, and their construction from the settings of an experiment."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from evomerge.atomic import refuse_unwritable
from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Optimizer, Vector
from evomerge.plugins import load_plugin, plugin_names
from evomerge.schema import Location, check_section, check_value, prefix_errors


def names() -> tuple[str, ...]:
    """The names of all optimizers, sorted: one for each public file of this folder."""
    return plugin_names("optimizers")


def create(
    name: str,
    coordinates: Sequence[Coordinate],
    seeds: Sequence[Vector],
    seed: int,
    settings: Mapping[str, Any],
    objectives: int = 1,
    asynchronous: bool = False,
) -> Optimizer:
    """The optimizer with this name; `seeds` are points that it asks first.

    If the settings contain `mirror`, its trials are also written to an Optuna journal at that path. ConfigError names
    an unknown setting, or an optimizer that does not support several objectives or asynchronous proposals.
    """
    check(name, settings, asynchronous)
    module = _module(name)
    given = {key: value for key, value in settings.items() if key != "mirror"}
    if objectives > 1:
        if not supports_several_objectives(name):
            able = ", ".join(other for other in names() if supports_several_objectives(other))
            raise ConfigError(f"objective.front: optimizer={name} takes one objective; choose one of {able}")
        if "objectives" in inspect.signature(module.create).parameters:  # random and sobol do not need the number
            given["objectives"] = objectives
    optimizer = cast(Optimizer, module.create(coordinates, seeds, seed, **given))
    if mirror := settings.get("mirror"):
        return cast(Optimizer, _module("_mirror").MirroredOptimizer(optimizer, coordinates, Path(mirror)))
    return optimizer


def check(name: str, settings: Mapping[str, Any], asynchronous: bool = False) -> None:
    """ConfigError for an unknown optimizer or setting, or a mirror that is useless or cannot be written.

    So is an optimizer that has to wait for all results of a generation in a search that is `asynchronous`.

    Creates no optimizer and no file.
    """
    given = {key: value for key, value in settings.items() if key != "mirror"}
    check_section(load_plugin("optimizers", name, "optimizer").create, given, "optimizer", reserved=("objectives",))
    if asynchronous and not supports_asynchronous(name):
        able = ", ".join(other for other in names() if supports_asynchronous(other))
        raise ConfigError(
            f"search.mode=asynchronous: optimizer={name} proposes nothing while results are outstanding; choose one of "
            f"{able}"
        )
    mirror = settings.get("mirror")
    check_value(mirror, Location | None, "optimizer.mirror")
    if mirror:
        if not proposes_candidates(name):
            raise ConfigError(
                f"optimizer.mirror: optimizer={name} proposes no candidates, so it has no trials; unset it"
            )
        with prefix_errors("optimizer.mirror"):
            refuse_unwritable(Path(mirror))


def supports_several_objectives(name: str) -> bool:
    """Whether `tell` of this optimizer accepts a tuple of losses per candidate."""
    return bool(getattr(_module(name), "SEVERAL_OBJECTIVES", False))


def supports_asynchronous(name: str) -> bool:
    """Whether what `create` of this optimizer returns is an `AsynchronousOptimizer`, too."""
    return bool(getattr(_module(name), "ASYNCHRONOUS", False))


def proposes_candidates(name: str) -> bool:
    """Whether this optimizer asks for candidates to be scored; a module that does not sets PROPOSES_CANDIDATES."""
    return bool(getattr(_module(name), "PROPOSES_CANDIDATES", True))


def uses_slopes(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the optimizer with these settings is a `SlopeOptimizer`, so that items need losses."""
    asks = getattr(_module(name), "uses_slopes", None)
    return bool(asks and asks(settings))


def _module(name: str) -> Any:
    return importlib.import_module(f"evomerge.optimizers.{name}")
