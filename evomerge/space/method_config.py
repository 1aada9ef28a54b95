"""The merge methods that an experiment names: those of the search, and textbook merges to compare with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.schema import build, naming
from evomerge.space.axes import Coefficient
from evomerge.space.genes import check_settings


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Which merge method, with settings that are not searched and published variants."""

    name: str
    settings: Mapping[str, Coefficient | bool] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TextbookConfig(MethodConfig):
    """A merge that is not searched: `genes` are values for all experts and tensors, the others have their defaults."""

    genes: Mapping[str, Coefficient] = field(default_factory=dict)


def read_textbook(given: Any, where: str) -> TextbookConfig:
    """One method with its values; ConfigError for one that is not known, naming the key that it stands at."""
    found = build(TextbookConfig, {"name": given} if isinstance(given, str) else given, where)
    with naming(where):
        methods.check(found.name)
    return found


def read_methods(given: Any) -> list[MethodConfig]:
    """One method, or the methods that a search may choose among; ConfigError for one that is not known."""
    entries = given if isinstance(given, list | tuple) else [given]
    if not entries:
        raise ConfigError("method: the list is empty; name at least one method")
    found = [build(MethodConfig, {"name": e} if isinstance(e, str) else e, "method") for e in entries]
    names = [method.name for method in found]
    for name in names:
        methods.check(name)
        if names.count(name) > 1:
            raise ConfigError(f"method: {name} is listed twice; list each method once")
    for method in found:  # a method's own words need its file, and that torch: only where there are any
        if method.options:
            methods.choose_options(method.name, method.options)
        if method.settings:
            check_settings(method.name, method.settings)
    return found
