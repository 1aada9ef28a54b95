"""The pool for laptops, tests and a single GPU: one worker in this process."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from evomerge.recipes import Recipe
from evomerge.schema import Range
from evomerge.scoring import Request
from evomerge.workers import Outcome, WorkerSpec
from evomerge.workers.pools._contract import Routers
from evomerge.workers.pools._dispatch import JobQueue

if TYPE_CHECKING:
    from evomerge.routing import RouterWork


class LocalPool:
    """Runs jobs one after the other with one worker."""

    def __init__(self, spec: WorkerSpec) -> None:
        from evomerge.workers import Worker  # here, so that a pool's settings are checked without importing torch

        self._worker = Worker(spec)
        self._loaded_key: str | None = None  # of the candidate in the worker's model

    @property
    def workers(self) -> int:
        """The one worker."""
        return 1

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """Outcomes in the order of the queue; see `Pool.run`."""
        while job := jobs.next(self._loaded_key):
            self._loaded_key = job.key
            yield self._worker.attempt(job)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Add chunks to the worker."""
        self._worker.extend(requests)

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate's weights as they are scored."""
        return self._worker.fingerprint(recipe)

    def calibrate(self, recipe: Recipe, work: "RouterWork") -> Routers:
        """See `Worker.calibrate`."""
        return self._worker.calibrate(recipe, work)

    def close(self) -> None:
        """Do nothing: the worker is freed with the pool."""


def check(*, threads: int | None = None) -> None:
    """Accept any machine, as one worker needs no resources beyond it."""


def create(spec: WorkerSpec, *, threads: Annotated[int, Range(1, 1024)] | None = None) -> LocalPool:
    """`threads` is the number of torch threads; None keeps torch's default."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return LocalPool(spec)
