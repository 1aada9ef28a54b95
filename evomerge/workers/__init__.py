"""workers."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.workers.jobs import Job, Outcome, WorkerSpec
    from evomerge.workers.worker import Worker
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "Job",
    "Outcome",
    "Worker",
    "WorkerSpec",
]
