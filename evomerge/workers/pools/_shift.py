"""One queue of jobs, worked through by a crew."""

from collections.abc import Iterator
from dataclasses import dataclass

from evomerge.workers import Job, Outcome
from evomerge.workers.pools._crew import RETRIES, Crew
from evomerge.workers.pools._dispatch import JobQueue
from evomerge.workers.pools._member import Answer, Member

Id = tuple[str, str]  # the key of a job's recipe, and its chunk
SICK = "fails a candidate that another worker scores"


@dataclass(frozen=True)
class _Failure:
    """A failed job that another worker tries once, and the worker on which it failed."""

    outcome: Outcome
    member: Member


class Shift:
    """Gives the jobs of a queue to the workers of a crew until all are done.

    The job of a lost worker goes to another one, RETRIES times. A candidate that fails is tried once by another
    worker, if there is one: if that one scores it, the first worker is replaced, and the failure is not recorded.
    """

    def __init__(self, crew: Crew, jobs: JobQueue) -> None:
        self._crew, self._jobs = crew, jobs
        self._failures: list[_Failure] = []  # that wait for another worker
        self._retried: dict[Id, _Failure] = {}  # that another worker is trying
        self._lost: dict[Id, int] = {}  # job → how often its worker was lost
        self._overdue: dict[Id, int] = {}  # job → how often no answer came in time

    def run(self) -> Iterator[Outcome]:
        """The outcomes in order of completion."""
        while True:
            self._assign()
            if (outcome := self._final_failure()) is not None:
                yield outcome
            elif not (self._is_running() or self._failures or len(self._jobs)):
                return
            else:
                yield from self._outcomes()

    def _outcomes(self) -> Iterator[Outcome]:
        """The final outcomes of the next answers; no worker gets another job before all of them are read.

        An answer is about the job that its worker has, so a new job would take the blame for an old one's error.
        """
        for answer in self._crew.wait():
            job = answer.member.job
            if answer.member.queue is not self._jobs or job is None:
                continue  # a job of a queue that was left unfinished
            outcome = self._outcome(job, answer)
            if outcome is not None:
                yield outcome

    def _is_running(self) -> bool:
        idle = self._crew.idle()
        return any(member.queue is self._jobs and member not in idle for member in self._crew.members)

    def _assign(self) -> None:
        for member in self._crew.idle():
            job = self._failed_elsewhere(member) or self._jobs.next(member.loaded_key)
            if job is not None:
                self._crew.give(member, job, self._jobs, self._overdue.get(_id(job), 0))

    def _failed_elsewhere(self, member: Member) -> Job | None:
        """A job that has failed on another worker than this one."""
        failure = next((failure for failure in self._failures if failure.member is not member), None)
        if failure is None:
            return None
        self._failures.remove(failure)
        self._retried[_id(failure.outcome.job)] = failure
        return failure.outcome.job

    def _final_failure(self) -> Outcome | None:
        """A failure that no other worker has to confirm: there is none, or the candidate was given up meanwhile."""
        for failure in self._failures:
            if self._jobs.is_dropped(failure.outcome.job.key) or not self._crew.has_other(failure.member):
                self._failures.remove(failure)
                return failure.outcome
        return None

    def _outcome(self, job: Job, answer: Answer) -> Outcome | None:
        """The final outcome of a job, or None if it is tried again."""
        failure = self._retried.pop(_id(job), None)
        if answer.lost is not None:
            return self._after_loss(job, answer, failure)
        outcome = Outcome(job, error=answer.error) if answer.error is not None else answer.value
        assert isinstance(outcome, Outcome)
        answer.member.loaded_key = job.key if answer.error is None else None
        if failure is not None:
            if outcome.error is not None:
                return failure.outcome
            self._dismiss(failure.member)
        elif outcome.error is not None:
            self._failures.append(_Failure(outcome, answer.member))
            return self._final_failure()
        return outcome

    def _after_loss(self, job: Job, answer: Answer, failure: _Failure | None) -> Outcome | None:
        count = self._lost[_id(job)] = self._lost.get(_id(job), 0) + 1
        self._overdue[_id(job)] = self._overdue.get(_id(job), 0) + answer.is_overdue
        if count > RETRIES:
            return (
                failure.outcome if failure else Outcome(job, error=f"its worker was lost {count} times ({answer.lost})")
            )
        self._put_back(job, failure)
        return None

    def _put_back(self, job: Job, failure: _Failure | None) -> None:
        if failure is not None:
            self._failures.append(failure)
        else:
            self._jobs.requeue(job)

    def _dismiss(self, member: Member) -> None:
        """Replace a sick worker, and put back the job that it has now."""
        if member not in self._crew.members:
            return
        job, is_idle = member.job, member in self._crew.idle()
        self._crew.dismiss(member, SICK)
        if job is not None and not is_idle and member.queue is self._jobs:
            self._put_back(job, self._retried.pop(_id(job), None))


def _id(job: Job) -> Id:
    return job.key, job.chunk
