"""Where workers run: one file per pool, found by being in this folder."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.workers.pools._contract import Pool
    from evomerge.workers.pools._dispatch import JobQueue
    from evomerge.workers.pools._registry import check, create, names
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "JobQueue",
    "Pool",
    "check",
    "create",
    "names",
]
