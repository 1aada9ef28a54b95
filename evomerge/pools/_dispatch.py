"""Which job a free worker takes next; pure bookkeeping, no workers."""

from collections import deque
from collections.abc import Sequence

from evomerge.jobs import Job


class Dispatch:
    """Jobs by candidate: a worker stays with the candidate it holds, then opens a new one, then helps another."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting: dict[str, deque[Job]] = {}
        self._opened: set[str] = set()
        self._dropped: set[str] = set()
        for job in jobs:
            self._waiting.setdefault(job.key, deque()).append(job)

    def next(self, holding: str | None) -> Job | None:
        """A job for a worker whose model holds the candidate `holding`; None when nothing waits."""
        if not self._waiting:
            return None
        key = holding if holding in self._waiting else self._fresh() or max(self._waiting, key=self._left)
        assert key is not None
        self._opened.add(key)
        job = self._waiting[key].popleft()
        if not self._waiting[key]:
            del self._waiting[key]
        return job

    def drop(self, key: str) -> None:
        """Forget a candidate that has failed."""
        self._waiting.pop(key, None)
        self._dropped.add(key)

    def requeue(self, job: Job) -> None:
        """Put back a job whose worker was lost, unless its candidate has failed meanwhile."""
        if job.key not in self._dropped:
            self._waiting.setdefault(job.key, deque()).appendleft(job)

    def _fresh(self) -> str | None:
        return next((key for key in self._waiting if key not in self._opened), None)

    def _left(self, key: str) -> int:
        return len(self._waiting[key])
