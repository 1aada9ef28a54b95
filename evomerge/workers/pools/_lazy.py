"""A pool that starts its workers when they are first needed."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from evomerge.recipes import Recipe
from evomerge.scoring import Request
from evomerge.workers import Outcome
from evomerge.workers.pools._contract import Pool
from evomerge.workers.pools._dispatch import JobQueue


class LazyPool:
    """Starts its workers with the first job: a finished run starts none."""

    def __init__(self, start: Callable[[], Pool]) -> None:
        self._start = start
        self._pool: Pool | None = None
        self._more: dict[str, Sequence[Request]] = {}

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        if len(jobs):
            yield from self._started().run(jobs)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        self._more |= requests
        if self._pool:
            self._pool.extend(requests)

    def fingerprint(self, recipe: Recipe) -> str:
        return self._started().fingerprint(recipe)

    def close(self) -> None:
        if self._pool:
            self._pool.close()

    def _started(self) -> Pool:
        if self._pool is None:
            self._pool = self._start()
            if self._more:
                self._pool.extend(self._more)
        return self._pool
