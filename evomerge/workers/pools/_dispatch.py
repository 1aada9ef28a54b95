"""The queue from which free workers take jobs; it does not know the workers."""

from collections.abc import Callable, Iterable, Mapping

from evomerge.workers import Job

Queue = dict[str, dict[str, Job]]  # recipe key → chunk id → job, both in the order given


class JobQueue:
    """Jobs by candidate, assigned so that few candidates have to be written into a model.

    A worker first gets jobs of the candidate that its model has, then of a candidate that no worker has started, then
    of the candidate with the most jobs left. When no needed job waits, it gets jobs that may be needed later. The
    reader of the outcomes decides which jobs are needed, also while workers are running.
    """

    def __init__(self, needed: Iterable[Job] = ()) -> None:
        self._needed: Queue = {}
        self._speculative: Queue = {}
        self._started: set[str] = set()
        self._dropped: set[str] = set()
        self._running: dict[tuple[str, str], bool] = {}  # (key, chunk) → whether the job was needed when it was taken
        self.put(needed)

    def __len__(self) -> int:
        """The number of needed jobs that no worker has taken."""
        return sum(map(len, self._needed.values()))

    def put(self, needed: Iterable[Job], speculative: Iterable[Job] = ()) -> None:
        """Replace the waiting jobs by these; jobs that a worker is running are not queued again."""
        self._needed, self._speculative = self._queued(needed), self._queued(speculative)
        self._dropped = set()

    def next(self, loaded_key: str | None) -> Job | None:
        """A job for a worker whose model has the candidate `loaded_key`; None if no job waits."""
        queue = self._needed or self._speculative
        if not queue:
            return None
        key = loaded_key if loaded_key in queue else self._unstarted(queue) or max(queue, key=lambda k: len(queue[k]))
        assert key is not None
        self._started.add(key)
        job = queue[key].pop(next(iter(queue[key])))
        if not queue[key]:
            del queue[key]
        self._running[job.key, job.chunk] = queue is self._needed
        return job

    def done(self, job: Job) -> None:
        """Mark a job as finished, after its outcome was returned."""
        self._running.pop((job.key, job.chunk), None)

    def drop(self, key: str) -> None:
        """Remove all waiting jobs of a candidate, because it has failed."""
        self._needed.pop(key, None)
        self._speculative.pop(key, None)
        self._dropped.add(key)

    def is_dropped(self, key: str) -> bool:
        """Whether the waiting jobs of a candidate were removed since the last `put`."""
        return key in self._dropped

    def requeue(self, job: Job) -> None:
        """Put back a job whose worker was lost, unless its candidate was dropped meanwhile."""
        queue = self._needed if self._running.pop((job.key, job.chunk), True) else self._speculative
        if job.key not in self._dropped:
            queue[job.key] = {job.chunk: job, **queue.get(job.key, {})}

    def _queued(self, jobs: Iterable[Job]) -> Queue:
        queue: Queue = {}
        for job in jobs:
            if (job.key, job.chunk) not in self._running:
                queue.setdefault(job.key, {})[job.chunk] = job
        return queue

    def _unstarted(self, queue: Mapping[str, object]) -> str | None:
        return next((key for key in queue if key not in self._started), None)


class DemandQueue(JobQueue):
    """A queue that calls `supply` when a worker finds no needed job, so that work is chosen as late as possible.

    `supply` puts needed jobs into the queue and returns True, or returns False if there is no work before the outcome
    of a running job: then it is called again after `reopen` only. Its length counts possible work as one job.
    """

    def __init__(self, supply: Callable[[], bool]) -> None:
        super().__init__()
        self._supply, self._is_open = supply, True

    def __len__(self) -> int:
        return super().__len__() + self._is_open

    def next(self, loaded_key: str | None) -> Job | None:
        """A job as in `JobQueue.next`, after a call of `supply` if no needed job waits."""
        self.fill()
        return super().next(loaded_key)

    def waiting(self) -> int:
        """The number of needed jobs that no worker has taken."""
        return super().__len__()

    def fill(self) -> None:
        """Call `supply` if no needed job waits and it may have work."""
        if self._is_open and not self.waiting():
            self._is_open = self._supply()

    def reopen(self) -> None:
        """Call `supply` again when it is needed."""
        self._is_open = True
