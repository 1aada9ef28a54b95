"""The merge methods in a configuration: those that are searched, and merges with given values as baselines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.schema import build, prefix_errors
from evomerge.space.axes import Coefficient
from evomerge.space.flow_config import METHOD
from evomerge.space.genes import check_settings


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """A merge method with the settings that are not searched, and options that select published variants."""

    name: str
    settings: Mapping[str, Coefficient | bool] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TextbookConfig(MethodConfig):
    """A merge that is not searched: `genes` maps names to values for all experts and tensors, others have defaults."""

    genes: Mapping[str, Coefficient] = field(default_factory=dict)


def read_textbook(given: Any, where: str) -> TextbookConfig:
    """Read one entry of `baselines.methods`; ConfigError, with the key `where`, for an unknown method."""
    found = build(TextbookConfig, {"name": given} if isinstance(given, str) else given, where)
    with prefix_errors(where):
        methods.check(found.name)
        if found.name == METHOD:
            raise ConfigError(f"{METHOD} copies layers and has no textbook default; give a recipe in baselines.recipes")
    return found


def read_methods(given: Any) -> list[MethodConfig]:
    """Read the `method` section, one method or a list of them; ConfigError for an unknown or repeated method."""
    entries = given if isinstance(given, list | tuple) else [given]
    if not entries:
        raise ConfigError("method: the list is empty; name at least one method")
    found = [build(MethodConfig, {"name": e} if isinstance(e, str) else e, "method") for e in entries]
    names = [method.name for method in found]
    for name in names:
        methods.check(name)
        if names.count(name) > 1:
            raise ConfigError(f"method: {name} is listed twice; list each method once")
    for method in found:  # checking options and settings imports the method and torch, so only if there are any
        if method.options:
            methods.choose_options(method.name, method.options)
        if method.settings:
            check_settings(method.name, method.settings)
    return found
