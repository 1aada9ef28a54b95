"""Rooms whose files are found by being there: merge methods, optimizers, pools and trackers.

The name of a file is the name by which a configuration chooses it. A file whose name begins with `_` is not a choice.
"""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType

from evomerge.errors import ConfigError
from evomerge.schema import shown
from evomerge.suggest import nearest


@cache
def plugin_names(room: str) -> tuple[str, ...]:
    """Every choice that a room such as `methods` or `workers.pools` offers, sorted; imports none of them."""
    folder = Path(__file__).parent.joinpath(*room.split("."))
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")))


def refuse_unknown_plugin(room: str, name: str, kind: str, others: tuple[str, ...] = ()) -> None:
    """ConfigError with the nearest choice where a room has no file of this name; imports nothing.

    `kind` is what the message calls it, and `others` are choices without a file.
    """
    known = (*others, *plugin_names(room))
    if name not in plugin_names(room):
        quoted = f"'{shown(name)}'" if name else "''"
        raise ConfigError(f"{kind} {quoted} is not known{nearest(name, known)}; choose of {', '.join(known)}")


def load_plugin(room: str, name: str, kind: str, others: tuple[str, ...] = ()) -> ModuleType:
    """The module of this name; ConfigError as in `refuse_unknown_plugin`."""
    refuse_unknown_plugin(room, name, kind, others)
    return importlib.import_module(f"evomerge.{room}.{name}")
