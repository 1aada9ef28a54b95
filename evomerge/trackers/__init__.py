"""Where a search can be watched from outside: one file per tracker, found by being in this folder; `none` is no file.

A tracker is a callback of the search. It gets every generation again when a search is resumed, with the same numbers at
the same steps, and an error in it costs one warning, never the search.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.trackers._contract import Tracker
    from evomerge.trackers._registry import NONE, check, create, names
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "NONE",
    "Tracker",
    "check",
    "create",
    "names",
]
