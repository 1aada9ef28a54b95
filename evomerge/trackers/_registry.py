"""Trackers by their names, made from the settings of an experiment."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError
from evomerge.plugins import load_plugin, plugin_names
from evomerge.schema import check_section

if TYPE_CHECKING:
    from evomerge.trackers import Tracker

NONE = "none"  # a choice without a file


def names() -> tuple[str, ...]:
    """Every tracker of this folder, sorted, after none."""
    return (NONE, *plugin_names("trackers"))


def check(name: str, settings: Mapping[str, Any]) -> None:
    """ConfigError for an unknown tracker or setting, or a package that is not installed; starts nothing."""
    if name == NONE:
        check_section(lambda: None, settings, "tracker")
        return
    module = load_plugin("trackers", name, "tracker", (NONE,))
    check_section(module.create, settings, "tracker")
    if find_spec(module.PACKAGE) is None:
        raise ConfigError(f"tracker={name}: its package is not installed; pip install 'evomerge[{name}]'")


def create(name: str, folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> "Tracker":
    """The tracker of this name for the run in `folder`; one that cannot start is a warning."""
    from evomerge.trackers import Tracker

    check(name, settings)
    if name == NONE:
        return Tracker(name, None)
    factory = load_plugin("trackers", name, "tracker").create
    return Tracker(name, lambda: factory(folder, config, **settings))
