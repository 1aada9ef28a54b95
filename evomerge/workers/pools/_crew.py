"""The workers of a search: their start, their loss, their replacement, and the limits on what they may take."""

import logging
import time
from collections.abc import Callable
from typing import Any

from evomerge.errors import RunError
from evomerge.terminal import duration
from evomerge.workers import Job
from evomerge.workers.pools._dispatch import JobQueue
from evomerge.workers.pools._fleet import CallError, Fleet, WorkerLostError
from evomerge.workers.pools._member import Answer, Member, State
from evomerge.workers.pools._pace import Pace

log = logging.getLogger(__name__)

RETRIES = 2  # a call is repeated so often if its worker is lost
TICK = 5.0  # seconds between two looks at the nodes
NOTICE = 30.0  # seconds after which a line says that workers wait for a place, again and again
PLACE_LIMIT = 1800.0  # seconds in which at least one worker must get a place
NODE_LIMIT = 120.0  # seconds in which a cluster without room for any worker must get some
PAUSE = 60.0  # seconds until a worker is started again after one could not start, for each time that one could not
LOAD = "load"  # the name of loading the model


class Crew:
    """Up to `workers` workers of a fleet. A worker that is lost or does not answer in time is replaced.

    Workers are started whenever a node has room for one that is missing, so a node that joins is used. Where other
    searches use the same nodes, workers beyond the fair share end after their present call.
    """

    def __init__(
        self, fleet: Fleet, workers: int, pace: Pace | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fleet, self._workers, self._clock = fleet, workers, clock
        self._jobs, self._loads = pace or Pace(), Pace()
        self.members: list[Member] = []
        self._is_complete = False  # whether the first workers have started
        self._next_look = self._last_failure = self._next_notice = 0.0
        self._empty_since: float | None = None  # since when no node has room for a worker
        self._failed_starts = 0
        self._told = workers  # the number of workers that the last line about it has said

    def start(self) -> None:
        """Wait until the workers have loaded their models, or for NOTICE seconds if one has and others have no place.

        RunError if a worker raises while it loads, because it would do so again.
        """
        begun = self._clock()
        while not self._is_complete:
            self.wait()
            states = {member.state for member in self.members}
            late = self._clock() - begun > NOTICE
            self._is_complete = State.IDLE in states and (
                states == {State.IDLE} or (late and State.LOADING not in states)
            )

    def idle(self) -> list[Member]:
        """The workers that have no job."""
        return [member for member in self.members if member.state is State.IDLE]

    def has_other(self, member: Member) -> bool:
        """Whether there is another worker that has a place."""
        return any(other is not member and other.state is not State.PLACING for other in self.members)

    def give(self, member: Member, job: Job, queue: JobQueue, tries: int) -> None:
        """Give a job to an idle worker; `tries` is how often no answer has come to it."""
        member.job, member.queue = job, queue
        self._call(member, State.BUSY, job.chunk, self._fleet.attempt(member.worker, job), tries)

    def ask(self, name: str, send: Callable[[Any], Any]) -> tuple[Member, Any]:
        """The worker and the value of a call that any worker can answer; RunError if it raises or no worker lives."""
        reason = ""
        for tries in range(RETRIES + 1):
            while not self.idle():
                self.wait()
            member = self.idle()[0]
            member.job = member.queue = None
            self._call(member, State.BUSY, name, send(member.worker), tries)
            answer = self._answer_of(member)
            if answer.lost is None and answer.error is None:
                return member, answer.value
            if answer.error is not None:
                raise RunError(answer.error)
            reason = answer.lost or ""
        raise RunError(
            f"pool: {RETRIES + 1} workers were lost with the same call ({reason}); look at the node's memory"
        )

    def wait(self) -> list[Answer]:
        """The calls that have ended, after at most TICK seconds; starts and replaces workers meanwhile."""
        self._recruit()
        waiting = {member.ref: member for member in self.members if member.state is not State.IDLE}
        before = self._clock()
        done = self._fleet.wait(list(waiting), TICK)
        if self._clock() - before > 2 * TICK:  # this process was stopped, and its workers may have been, too
            for member in self.members:
                member.since = self._clock()
        settled = [self._settle(waiting[ref]) for ref in done]
        return [answer for answer in [*settled, *self._overdue()] if answer is not None]

    def dismiss(self, member: Member, reason: str) -> None:
        """End a worker and replace it."""
        log.warning("%s %s: it is replaced", member.place, reason)
        self._remove(member)

    def close(self) -> None:
        """End all workers."""
        for member in list(self.members):
            self._remove(member)

    def _call(self, member: Member, state: State, name: str, ref: Any, tries: int = 0) -> None:
        member.state, member.call, member.ref, member.tries = state, name, ref, tries
        member.since = self._clock()

    def _answer_of(self, member: Member) -> Answer:
        while True:
            for answer in self.wait():
                if answer.member is member:
                    return answer

    def _settle(self, member: Member) -> Answer | None:
        """Take the result of a call that has ended; None if it belongs to the start of a worker."""
        state, seconds = member.state, self._clock() - member.since
        try:
            value = self._fleet.result(member.ref)
        except WorkerLostError as error:
            if state is not State.BUSY:
                self._cannot_start(member, str(error))
                return None
            log.warning("%s was lost (%s): its work goes to another", member.place, error)
            self._remove(member)
            return Answer(member, lost=str(error))
        except CallError as error:
            if state is not State.BUSY:
                self._cannot_start(member, str(error), again=False)
                return None
            member.state, member.loaded_key = State.IDLE, None
            if member.is_leaving:
                self._remove(member)
            return Answer(member, error=str(error))
        if state is State.PLACING:
            member.place = str(value)
            self._call(member, State.LOADING, LOAD, self._fleet.load(member.worker))
            return None
        self._pace(member).record(member.call, max(seconds, getattr(value, "seconds", 0.0)))
        member.state = State.IDLE
        if member.is_leaving:
            self._remove(member)
        if state is State.LOADING:
            self._failed_starts = 0
            return None
        member.answered += 1
        return Answer(member, value)

    def _overdue(self) -> list[Answer]:
        """The calls of workers that have taken longer than their limit; these workers are replaced."""
        answers, now = [], self._clock()
        for member in [m for m in self.members if m.state in (State.LOADING, State.BUSY)]:
            is_first = member.answered == 0 and member.state is State.BUSY
            limit = self._pace(member).limit(member.call, is_first=is_first, tries=member.tries)
            if now - member.since <= limit:
                continue
            reason = f"has not answered for {duration(now - member.since)} ({self._usual(member)})"
            if member.state is State.LOADING:
                self._cannot_start(member, reason)
                continue
            log.warning("%s %s: its work goes to another, and it is replaced", member.place, reason)
            self._remove(member)
            answers.append(Answer(member, lost=reason, is_overdue=True))
        self._notice(now)
        return answers

    def _pace(self, member: Member) -> Pace:
        return self._loads if member.state is State.LOADING else self._jobs

    def _usual(self, member: Member) -> str:
        usual = self._pace(member).usual(member.call)
        return "nothing was timed before" if usual is None else f"{duration(max(1.0, usual))} at most before"

    def _notice(self, now: float) -> None:
        """Say that workers wait for a place; RunError if none has got one for long, and no other search has them."""
        placing = [member for member in self.members if member.state is State.PLACING]
        waited = max((now - member.since for member in placing), default=0.0)
        if waited > NOTICE and now >= self._next_notice:
            log.warning("waiting for %d of %d workers: the cluster is busy", len(placing), self._workers)
            self._next_notice = now + (NOTICE if len(placing) == len(self.members) else PLACE_LIMIT)
        if waited > PLACE_LIMIT and len(placing) == len(self.members) and not self._fleet.is_shared():
            raise RunError(
                f"pool: no worker has got a place in {duration(waited)}; repeat the command when the cluster is less "
                "busy, or lower pool.num_cpus or pool.num_gpus"
            )

    def _cannot_start(self, member: Member, reason: str, *, again: bool = True) -> None:
        """Remove a worker that could not start; RunError if no other works and starting again is of no use."""
        self._remove(member)
        self._failed_starts, self._last_failure = self._failed_starts + 1, self._clock()
        works = any(other.state in (State.IDLE, State.BUSY) for other in self.members)
        if not again and not (works and self._is_complete):
            raise RunError(f"pool: a worker could not start ({member.place}: {reason})")
        if not works and self._failed_starts > RETRIES * self._workers:
            raise RunError(
                f"pool: a worker could not start, tried {self._failed_starts} times ({reason}); mend that, "
                "then repeat the command"
            )
        log.warning("%s could not start (%s): another is started", member.place, reason)

    def _remove(self, member: Member) -> None:
        if member in self.members:
            self.members.remove(member)
        self._fleet.kill(member.worker)
        self._next_look = 0.0

    def _recruit(self) -> None:
        """Start the workers that are missing and that a node has room for; RunError if there is room for none."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + TICK
        room = int(min(self._fleet.room(), self._workers))
        self._tell(room)
        share = self._fleet.fair_share(self._workers)
        self._release(share)
        room = min(room, share)
        if not room and not self.members:
            self._empty_since = self._empty_since or now
            if now - self._empty_since >= NODE_LIMIT:
                raise RunError("pool: no node has room for a worker any more; repeat the command when one is back")
            return
        self._empty_since = None
        if self.members and self._failed_starts and now < self._last_failure + PAUSE * self._failed_starts:
            return
        for _ in range(room - len(self.members)):
            worker, ref = self._fleet.spawn()
            self.members.append(Member(worker, ref, self._clock()))

    def _release(self, share: int) -> None:
        """End workers beyond the fair share: first those without a model, then idle ones, then after their job."""
        order = (State.PLACING, State.LOADING, State.IDLE, State.BUSY)
        by_use = sorted(self.members, key=lambda member: order.index(member.state))
        surplus = by_use[: max(0, len(self.members) - share)]
        for member in self.members:
            member.is_leaving = member in surplus and member.state is State.BUSY
        for member in surplus:
            if not member.is_leaving:
                self._remove(member)

    def _tell(self, room: int) -> None:
        """A line if the number of workers that the nodes have room for has changed."""
        if room != self._told:
            does = "going on with these" if room else "waiting for a node"
            log.warning("the nodes have room for %d of %d workers: %s", room, self._workers, does)
            self._told = room
