"""A worker as the crew knows it, and the answers to its calls."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from evomerge.workers import Job
from evomerge.workers.pools._dispatch import JobQueue


class State(Enum):
    """What a worker does."""

    PLACING = "waits for a place"
    LOADING = "loads the model"
    IDLE = "waits for a job"
    BUSY = "runs a job"


@dataclass(eq=False)
class Member:
    """A worker, and the call that it has not answered yet."""

    worker: Any
    ref: Any
    since: float  # when the call was made
    state: State = State.PLACING
    call: str = ""  # the name of the call in the pace
    tries: int = 0  # how often this call was given up before
    place: str = "a worker"
    loaded_key: str | None = None  # of the candidate in its model
    job: Job | None = None
    queue: JobQueue | None = None  # that the job is from
    answered: int = 0  # calls so far
    is_leaving: bool = False  # ends after its present call, because another search gets its place


@dataclass(frozen=True)
class Answer:
    """What has become of a call: a value, an error that it raised, or the reason why its worker was lost."""

    member: Member
    value: Any = None
    error: str | None = None
    lost: str | None = None
    is_overdue: bool = False
