"""A pool that starts its workers with the first job, so that a finished run starts none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.recipes import Recipe
from evomerge.scoring import Request
from evomerge.workers import Outcome
from evomerge.workers.pools._contract import Pool, Routers
from evomerge.workers.pools._dispatch import JobQueue

if TYPE_CHECKING:
    from evomerge.routing import RouterWork


class LazyPool:
    """Starts another pool when it is first needed, and passes all calls on to it."""

    def __init__(self, start: Callable[[], Pool]) -> None:
        self._start = start
        self._pool: Pool | None = None
        self._added: dict[str, Sequence[Request]] = {}

    @property
    def workers(self) -> int:
        return self._pool.workers if self._pool else 0

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        if len(jobs):
            yield from self._started().run(jobs)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        self._added |= requests
        if self._pool:
            self._pool.extend(requests)

    def fingerprint(self, recipe: Recipe) -> str:
        return self._started().fingerprint(recipe)

    def calibrate(self, recipe: Recipe, work: "RouterWork") -> Routers:
        return self._started().calibrate(recipe, work)

    def close(self) -> None:
        pool, self._pool = self._pool, None  # a local worker's model is freed with its pool
        if pool:
            pool.close()

    def _started(self) -> Pool:
        if self._pool is None:
            self._pool = self._start()
            if self._added:
                self._pool.extend(self._added)
        return self._pool
