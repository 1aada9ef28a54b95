"""One worker in this process: laptops, tests, a single GPU."""

from collections.abc import Iterator, Sequence

import torch

from evomerge.errors import ConfigError
from evomerge.jobs import Job, Outcome, WorkerSpec
from evomerge.recipe import Recipe
from evomerge.worker import Worker


class LocalPool:
    """Runs jobs one after the other, candidate by candidate."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = Worker(spec)

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Outcomes in job order, without the jobs of a candidate that has failed."""
        failed: set[str] = set()
        for job in jobs:
            if job.key in failed:
                continue
            outcome = self._worker.attempt(job)
            if outcome.error is not None:
                failed.add(job.key)
            yield outcome

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate as it is scored here."""
        return self._worker.fingerprint(recipe)

    def close(self) -> None:
        """Nothing to free: the worker goes with the pool."""


def check(*, threads: int | None = None) -> None:
    """ConfigError for a thread count that cannot be meant."""
    if threads is not None and threads < 1:
        raise ConfigError(f"pool.threads={threads}: give at least 1, or leave it out for all cores")


def create(spec: WorkerSpec, *, threads: int | None = None) -> LocalPool:
    """`threads` torch threads; None leaves torch's own choice."""
    if threads is not None:
        torch.set_num_threads(threads)
    return LocalPool(spec)
