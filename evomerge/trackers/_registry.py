"""Finds trackers by name, and creates one from the settings of an experiment."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError
from evomerge.plugins import load_plugin, plugin_names
from evomerge.redaction import without_secrets
from evomerge.schema import check_section

if TYPE_CHECKING:
    from evomerge.trackers import Tracker

NONE = "none"  # a name without a file


def names() -> tuple[str, ...]:
    """`none`, then the trackers of this folder in alphabetical order."""
    return (NONE, *plugin_names("trackers"))


def check(name: str, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown tracker or setting, or if its package is not installed; starts no tracker."""
    if name == NONE:
        check_section(lambda: None, settings, "tracker")
        return
    module = load_plugin("trackers", name, "tracker", (NONE,))
    check_section(module.create, settings, "tracker")
    if find_spec(module.PACKAGE) is None:
        raise ConfigError(f"tracker={name}: its package is not installed; pip install 'evomerge[{name}]'")


def create(name: str, folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> "Tracker":
    """The tracker for the run in `folder`; if it cannot start, a warning is logged and it does nothing."""
    from evomerge.trackers import Tracker

    check(name, settings)
    if name == NONE:
        return Tracker(name, None)
    factory = load_plugin("trackers", name, "tracker").create
    shown = without_secrets(config)
    return Tracker(name, lambda: factory(folder, shown, **settings))
