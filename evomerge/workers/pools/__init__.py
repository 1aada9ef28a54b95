"""Where workers run: one file per pool, found by being in this folder.

A pool takes jobs from a `JobQueue` and yields outcomes in any order. It knows nothing of generations or scores. The
rule: a lost worker costs the job that it had, nothing waits without a limit, and the results do not depend on which
worker did what. A `Crew` decides about workers through the interface `Fleet`, so its rules are tested without Ray.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.workers.pools._contract import Pool
    from evomerge.workers.pools._dispatch import DemandQueue, JobQueue
    from evomerge.workers.pools._interpreter import installed_versions
    from evomerge.workers.pools._lazy import LazyPool
    from evomerge.workers.pools._ray_connection import shared_ray
    from evomerge.workers.pools._registry import check, create, names
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "DemandQueue",
    "JobQueue",
    "LazyPool",
    "Pool",
    "check",
    "create",
    "installed_versions",
    "names",
    "shared_ray",
]
