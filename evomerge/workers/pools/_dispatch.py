"""Which job a free worker takes next; pure bookkeeping, no workers."""

from collections.abc import Iterable, Mapping

from evomerge.workers import Job

Queue = dict[str, dict[str, Job]]  # candidate → chunk → job, each in the order given


class JobQueue:
    """Jobs by candidate: a worker stays with the candidate it holds, then opens a new one, then helps another.

    When nothing that is needed waits any more, it takes what may be needed later, so that no worker idles. Whoever
    reads the outcomes says what is needed, also while workers are at work.
    """

    def __init__(self, needed: Iterable[Job] = ()) -> None:
        self._needed: Queue = {}
        self._ahead: Queue = {}
        self._opened: set[str] = set()
        self._dropped: set[str] = set()
        self._out: dict[tuple[str, str], bool] = {}  # with a worker now, and whether it was needed when taken
        self.put(needed)

    def __len__(self) -> int:
        """How many needed jobs no worker has taken."""
        return sum(map(len, self._needed.values()))

    def put(self, needed: Iterable[Job], ahead: Iterable[Job] = ()) -> None:
        """What waits from now on, instead of what did; a job that a worker has already is left to it."""
        self._needed, self._ahead = self._queued(needed), self._queued(ahead)
        self._dropped = set()

    def next(self, holding: str | None) -> Job | None:
        """A job for a worker whose model holds the candidate `holding`; None when nothing waits."""
        queue = self._needed or self._ahead
        if not queue:
            return None
        key = holding if holding in queue else self._fresh(queue) or max(queue, key=lambda k: len(queue[k]))
        assert key is not None
        self._opened.add(key)
        job = queue[key].pop(next(iter(queue[key])))
        if not queue[key]:
            del queue[key]
        self._out[job.key, job.chunk] = queue is self._needed
        return job

    def done(self, job: Job) -> None:
        """A worker has come back with the job's outcome."""
        self._out.pop((job.key, job.chunk), None)

    def drop(self, key: str) -> None:
        """Forget a candidate that has failed."""
        self._needed.pop(key, None)
        self._ahead.pop(key, None)
        self._dropped.add(key)

    def requeue(self, job: Job) -> None:
        """Put back a job whose worker was lost, unless its candidate has failed meanwhile."""
        queue = self._needed if self._out.pop((job.key, job.chunk), True) else self._ahead
        if job.key not in self._dropped:
            queue[job.key] = {job.chunk: job, **queue.get(job.key, {})}

    def _queued(self, jobs: Iterable[Job]) -> Queue:
        queue: Queue = {}
        for job in jobs:
            if (job.key, job.chunk) not in self._out:
                queue.setdefault(job.key, {})[job.chunk] = job
        return queue

    def _fresh(self, queue: Mapping[str, object]) -> str | None:
        return next((key for key in queue if key not in self._opened), None)
