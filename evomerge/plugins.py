"""Finds the plugins of a room by its files: merge methods, optimizers, pools and trackers.

A configuration selects a plugin by the name of its file. Files whose names begin with `_` are not plugins.
"""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType

from evomerge.errors import ConfigError
from evomerge.schema import as_yaml
from evomerge.suggest import did_you_mean


@cache
def plugin_names(room: str) -> tuple[str, ...]:
    """The names of all plugins of a room such as `methods` or `workers.pools`, sorted, without importing them."""
    folder = Path(__file__).parent.joinpath(*room.split("."))
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")))


def refuse_unknown_plugin(room: str, name: str, kind: str, others: tuple[str, ...] = ()) -> None:
    """ConfigError, with the closest name, if the room has no plugin of this name; imports nothing.

    `kind` is the word for it in the message; `others` are further valid names, which have no file.
    """
    known = (*others, *plugin_names(room))
    if name not in plugin_names(room):
        quoted = f"'{as_yaml(name)}'" if name else "''"
        raise ConfigError(f"{kind} {quoted} is not known{did_you_mean(name, known)}; choose one of {', '.join(known)}")


def load_plugin(room: str, name: str, kind: str, others: tuple[str, ...] = ()) -> ModuleType:
    """The module of this plugin; ConfigError as in `refuse_unknown_plugin`."""
    refuse_unknown_plugin(room, name, kind, others)
    return importlib.import_module(f"evomerge.{room}.{name}")
