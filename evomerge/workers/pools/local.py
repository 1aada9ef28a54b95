"""One worker in this process: laptops, tests, a single GPU."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from evomerge.recipes import Recipe
from evomerge.schema import Range
from evomerge.scoring import Request
from evomerge.workers import Outcome, WorkerSpec
from evomerge.workers.pools._dispatch import JobQueue


class LocalPool:
    """Runs jobs one after the other, staying with a candidate as long as it may."""

    def __init__(self, spec: WorkerSpec) -> None:
        from evomerge.workers import Worker  # the settings of a pool are checked before torch is loaded

        self._worker = Worker(spec)
        self._holding: str | None = None

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """Outcomes one by one; see `Pool.run`."""
        while job := jobs.next(self._holding):
            self._holding = job.key
            yield self._worker.attempt(job)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """More chunks for the worker."""
        self._worker.extend(requests)

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate as it is scored here."""
        return self._worker.fingerprint(recipe)

    def close(self) -> None:
        """Nothing to free: the worker goes with the pool."""


def check(*, threads: int | None = None) -> None:
    """Any machine has room for one worker."""


def create(spec: WorkerSpec, *, threads: Annotated[int, Range(1, 1024)] | None = None) -> LocalPool:
    """`threads` torch threads; None leaves torch's own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return LocalPool(spec)
