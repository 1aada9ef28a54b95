"""Merge methods by name, and properties derived from the constants of their modules."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from evomerge.errors import ConfigError
from evomerge.plugins import load_plugin, plugin_names, refuse_unknown_plugin
from evomerge.schema import as_yaml
from evomerge.suggest import did_you_mean

if TYPE_CHECKING:  # listing the methods must not import torch
    from evomerge.methods import Exactness, Method


def names() -> tuple[str, ...]:
    """The names of all methods in this folder, sorted."""
    return plugin_names("methods")


def check(name: str) -> None:
    """ConfigError for a method that is not known, with the nearest name; imports no method."""
    refuse_unknown_plugin("methods", name, "merge method")


@cache
def load(name: str) -> "Method":
    """The module of this method; ConfigError suggests the closest name for a misspelt one."""
    return cast("Method", load_plugin("methods", name, "merge method"))


def adapters_only(method: "Method") -> bool:
    """Whether the method merges the factors of LoRA adapters, so that it accepts no other experts."""
    return bool(getattr(method, "ADAPTERS_ONLY", False))


def banks_depend_on_experts(method: "Method") -> bool:
    """Whether each set of experts needs its own banks, which are as large as a model."""
    return bool(getattr(method, "BANKS_DEPEND_ON_EXPERTS", False))


def copies_one_model(method: "Method") -> bool:
    """Whether each slice of a recipe of this method copies one model."""
    return bool(getattr(method, "ONE_SOURCE", False))


def extensions(method: "Method") -> tuple[str, ...]:
    """The parameters that mergekit's method of the same name does not have."""
    return tuple(getattr(method, "EXTENSIONS", ()))


def normalizes(method: "Method", settings: Mapping[str, Any]) -> bool:
    """Whether the merge depends only on the ratios of the weights, so that a search need not vary their common scale.

    Some methods have a switch for this. A method with weights but without a switch always normalises them.
    """
    switch = next((key for key in ("normalize", "normalize_weights") if key in method.SHARED), None)
    if switch is None:
        return "weight" in method.PER_EXPERT
    return bool(settings.get(switch, method.SHARED[switch]))


def choose_options(name: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Every option of the method with its chosen or default value; ConfigError for an unknown option or value."""
    known = load(name).OPTIONS
    for key, value in chosen.items():
        if key not in known:
            raise ConfigError(
                f"method {name} has no option '{as_yaml(key)}'{did_you_mean(key, known)}; it has {list(known)}"
            )
        if value not in known[key]:
            raise ConfigError(f"method {name}: option {key}={as_yaml(value)} is not one of {', '.join(known[key])}")
    return {key: chosen.get(key, values[0]) for key, values in known.items()}


def exactness(name: str, options: Mapping[str, str]) -> "Exactness":
    """The method's exactness; variants that mergekit does not have are `native`."""
    method = load(name)
    default = all(options.get(key, values[0]) == values[0] for key, values in method.OPTIONS.items())
    return method.EXACTNESS if default else "native"
