"""Merge methods by their names, and what follows from what their modules say."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from evomerge.errors import ConfigError
from evomerge.plugins import load_plugin, plugin_names, refuse_unknown_plugin
from evomerge.schema import shown
from evomerge.suggest import nearest

if TYPE_CHECKING:  # the names of the methods are known without torch
    from evomerge.methods import Exactness, Method


def names() -> tuple[str, ...]:
    """Every method of this folder, sorted."""
    return plugin_names("methods")


def check(name: str) -> None:
    """ConfigError for a method that is not known, with the nearest name; imports no method."""
    refuse_unknown_plugin("methods", name, "merge method")


@cache
def load(name: str) -> "Method":
    """The method of this name; ConfigError names the nearest one for a misspelt name."""
    return cast("Method", load_plugin("methods", name, "merge method"))


def adapters_only(method: "Method") -> bool:
    """Whether the method merges the factors of LoRA adapters, so that nothing else can be an expert of it."""
    return bool(getattr(method, "ADAPTERS_ONLY", False))


def banks_of_all(method: "Method") -> bool:
    """Whether each set of experts needs banks of its own, each as large as a model."""
    return bool(getattr(method, "BANKS_OF_ALL", False))


def extensions(method: "Method") -> tuple[str, ...]:
    """The parameters that mergekit's method of the same name does not read."""
    return tuple(getattr(method, "EXTENSIONS", ()))


def normalizes(method: "Method", settings: Mapping[str, Any]) -> bool:
    """Whether only the ratios of the weights count, which makes their common scale meaningless to a search.

    A method has a switch for it, or, where it has weights and no switch, always does so.
    """
    switch = next((key for key in ("normalize", "normalize_weights") if key in method.SHARED), None)
    if switch is None:
        return "weight" in method.PER_EXPERT
    return bool(settings.get(switch, method.SHARED[switch]))


def choose_options(name: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Every option of the method with its value; an unknown option or value is a ConfigError."""
    known = load(name).OPTIONS
    for key, value in chosen.items():
        if key not in known:
            raise ConfigError(f"method {name} has no option '{shown(key)}'{nearest(key, known)}; it has {list(known)}")
        if value not in known[key]:
            raise ConfigError(f"method {name}: option {key}={shown(value)} is not one of {', '.join(known[key])}")
    return {key: chosen.get(key, values[0]) for key, values in known.items()}


def exactness(name: str, options: Mapping[str, str]) -> "Exactness":
    """The method's grade; a published variant that mergekit lacks is `native`."""
    method = load(name)
    default = all(options.get(key, values[0]) == values[0] for key, values in method.OPTIONS.items())
    return method.EXACTNESS if default else "native"
