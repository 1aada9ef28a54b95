"""Which worker gets which job when workers die, fall silent, fail candidates that others score, leave and join.

The workers are simulated, with a clock of their own: no test waits.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.pools import JobQueue
from evomerge.workers.pools import _crew as crew_file
from evomerge.workers.pools._crew import Crew
from evomerge.workers.pools._fleet import CallError, WorkerLostError
from evomerge.workers.pools._pace import FIRST, GROWTH, KNOWN, UNKNOWN, UNTIMED, Pace
from evomerge.workers.pools._shift import Shift
from tests.toys import toy_baselines

RECIPE = toy_baselines()["base"]
NEVER = float("inf")
Behaviour = Callable[
    [int, Job], float | Exception | str
]  # (worker, job) → seconds, an exception, or an error of the job


def jobs(*keys: str, chunks: int = 2) -> list[Job]:
    return [Job(key, RECIPE, f"search/{i}") for key in keys for i in range(chunks)]


@dataclass
class SimulatedFleet:
    """Workers 0, 1, 2 …, whose jobs take as long as `behaves` says; a load takes 10 seconds."""

    behaves: Behaviour = lambda worker, job: 2.0
    nodes: Callable[[float], float] = lambda now: 2
    loads: Callable[[int], float | Exception] = lambda worker: 10.0
    share: Callable[[float], int] = lambda now: 1000
    now: float = 0.0
    killed: list[int] = field(default_factory=list)
    done_by: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)
    _calls: dict[int, tuple[float, Any]] = field(default_factory=dict)  # reference → (when it ends, what it returns)
    _refs: Any = field(default_factory=itertools.count)

    def clock(self) -> float:
        return self.now

    def spawn(self) -> tuple[Any, Any]:
        worker = next(self._numbers)
        return worker, self._call(0.5, f"worker {worker} on node")

    def load(self, worker: Any) -> Any:
        took = self.loads(worker)
        return self._call(1.0, took) if isinstance(took, Exception) else self._call(took, None)

    def attempt(self, worker: Any, job: Job) -> Any:
        self.done_by.setdefault((job.key, job.chunk), []).append(worker)
        does = self.behaves(worker, job)
        if isinstance(does, Exception):
            return self._call(1.0, does)
        if isinstance(does, str):
            return self._call(1.0, Outcome(job, error=does))
        return self._call(does, Outcome(job, [job.key], seconds=does))

    def wait(self, refs: Sequence[Any], timeout: float) -> list[Any]:
        first = min((self._calls[ref][0] for ref in refs), default=NEVER)
        self.now = max(self.now, min(first, self.now + timeout))
        return [ref for ref in refs if self._calls[ref][0] <= self.now]

    def result(self, ref: Any) -> Any:
        value = self._calls[ref][1]
        if isinstance(value, Exception):
            raise value
        return value

    def kill(self, worker: Any) -> None:
        self.killed.append(worker)

    def room(self) -> float:
        return self.nodes(self.now)

    def is_shared(self) -> bool:
        return self.share(self.now) < 1000

    def fair_share(self, workers: int) -> int:
        return min(workers, self.share(self.now))

    def _call(self, seconds: float, value: Any) -> int:
        ref = next(self._refs)
        self._calls[ref] = (self.now + seconds, value)
        return ref


def run(
    fleet: SimulatedFleet, todo: list[Job], workers: int = 2, pace: Pace | None = None
) -> dict[tuple[str, str], Any]:
    crew = Crew(fleet, workers, pace, fleet.clock)
    crew.start()
    return outcomes(crew, JobQueue(todo))


def outcomes(crew: Crew, queue: JobQueue) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    for outcome in Shift(crew, queue).run():
        assert (outcome.job.key, outcome.job.chunk) not in found, "paid twice"
        found[outcome.job.key, outcome.job.chunk] = outcome.responses if outcome.error is None else outcome.error
        queue.done(outcome.job)
        if outcome.error is not None:
            queue.drop(outcome.job.key)
    return found


def scored(todo: list[Job]) -> dict[tuple[str, str], Any]:
    return {(job.key, job.chunk): [job.key] for job in todo}


def test_two_workers_share_the_work() -> None:
    fleet, todo = SimulatedFleet(), jobs("a", "b", "c", "d")
    assert run(fleet, todo) == scored(todo)
    assert fleet.now == pytest.approx(10.5 + 8.0) and not fleet.killed


def test_a_silent_worker_costs_its_limit_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """The second of two workers stops answering at its third job."""

    def behaves(worker: int, job: Job) -> float:
        return NEVER if worker == 1 and sum(worker in by for by in fleet.done_by.values()) == 3 else 2.0

    fleet, todo = SimulatedFleet(behaves), jobs("a", "b", "c", "d", "e", "f")
    pace = Pace()
    pace.record("search/0", 2.0)
    pace.record("search/1", 2.0)
    assert run(fleet, todo, pace=pace) == scored(todo)
    assert fleet.killed == [1]
    assert fleet.now < 10.5 + KNOWN + 3 * crew_file.TICK + 20
    assert "worker 1 on node has not answered for" in caplog.text and "at most before" in caplog.text


def test_a_worker_that_is_silent_from_the_start_is_found_by_the_pace_of_the_others() -> None:
    fleet, todo = SimulatedFleet(lambda worker, job: NEVER if worker == 1 else 2.0), jobs("a", "b", chunks=1)
    assert run(fleet, todo) == scored(todo)
    assert fleet.now < UNTIMED, "not as long as if nothing had been timed"


def test_a_candidate_on_which_every_worker_falls_silent_fails_after_bounded_tries() -> None:
    fleet = SimulatedFleet(lambda worker, job: NEVER if job.key == "b" else 2.0)
    found = run(fleet, jobs("a", "b", "c"))
    assert "its worker was lost 3 times (has not answered" in found["b", "search/0"]
    assert {key for key, value in found.items() if isinstance(value, list)} == {
        (key, f"search/{chunk}") for key in "ac" for chunk in range(2)
    }


def test_work_that_is_only_slow_is_not_failed() -> None:
    """A limit that is too low for a chunk grows with each try until the chunk fits."""
    fleet = SimulatedFleet(lambda worker, job: 400.0 if job.key == "b" else 2.0)
    todo = jobs("a", "c", "b", chunks=1)
    assert run(fleet, todo) == scored(todo)


def test_with_one_worker_it_is_replaced_and_the_job_done() -> None:
    fleet = SimulatedFleet(lambda worker, job: NEVER if worker == 0 and job.key == "b" else 2.0, nodes=lambda now: 1)
    todo = jobs("a", "b")
    assert run(fleet, todo, workers=1) == scored(todo) and fleet.killed == [0]


def test_a_stopped_driver_blames_no_worker() -> None:
    """Driver and workers are stopped for an hour (a container that is paused)."""

    class Paused(SimulatedFleet):
        def wait(self, refs: Sequence[Any], timeout: float) -> list[Any]:
            found = super().wait(refs, timeout)
            if not found and 20 < self.now < 3600:
                self.now += 3600
                self._calls = {ref: (end + 3600, value) for ref, (end, value) in self._calls.items()}
            return found

    fleet, todo = Paused(lambda worker, job: 20.0), jobs("a", "b")
    assert run(fleet, todo, pace=Pace(21.0)) == scored(todo) and not fleet.killed and fleet.now > 3600


def test_a_sick_worker_is_replaced_and_no_failure_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    fleet = SimulatedFleet(lambda worker, job: "ValueError: nan" if worker == 0 else 2.0)
    todo = jobs("a", "b", "c")
    assert run(fleet, todo) == scored(todo)
    assert fleet.killed == [0] and "fails a candidate that another worker scores" in caplog.text


def test_a_candidate_that_fails_everywhere_fails_and_no_worker_is_replaced() -> None:
    fleet = SimulatedFleet(lambda worker, job: "ValueError: nan" if job.key == "b" else 2.0)
    found = run(fleet, jobs("a", "b", "c"))
    assert found["b", "search/0"] == "ValueError: nan" and not fleet.killed
    assert len(set(fleet.done_by["b", "search/0"])) == 2, "by another worker the second time"


def test_a_single_worker_is_believed() -> None:
    fleet = SimulatedFleet(lambda worker, job: "ValueError: nan" if job.key == "b" else 2.0, nodes=lambda now: 1)
    assert run(fleet, jobs("a", "b"), workers=1)["b", "search/0"] == "ValueError: nan"
    assert fleet.done_by["b", "search/0"] == [0]


def test_a_worker_that_dies_loses_no_job_and_one_that_always_dies_fails_the_candidate() -> None:
    def behaves(worker: int, job: Job) -> float | Exception:
        return WorkerLostError("killed") if job.key == "b" or (worker == 0 and job.key == "c") else 2.0

    found = run(SimulatedFleet(behaves), jobs("a", "b", "c"))
    assert found["b", "search/0"] == "its worker was lost 3 times (killed)"
    assert found["c", "search/0"] == ["c"] == found["c", "search/1"]


def test_a_call_that_raises_is_a_failure_of_the_candidate() -> None:
    found = run(
        SimulatedFleet(lambda worker, job: CallError("KeyError: 'x'") if job.key == "b" else 2.0), jobs("a", "b")
    )
    assert found["b", "search/0"] == "KeyError: 'x'"


def test_of_two_answers_at_once_each_belongs_to_its_own_job() -> None:
    """An error is not that of the job which its worker would get next."""
    fleet = SimulatedFleet(lambda worker, job: CallError("ValueError: bad") if job.key == "b" else 1.0)
    todo = jobs("a", "b", "c", "d", chunks=1)
    found = run(fleet, todo)
    assert found == {**scored(todo), ("b", "search/0"): "ValueError: bad"}
    assert len(fleet.done_by["b", "search/0"]) == 2 and not fleet.killed


def test_a_worker_that_joins_is_used() -> None:
    """One node has room from the start; a second one joins after a minute."""
    fleet = SimulatedFleet(nodes=lambda now: 1 if now < 60 else 2)
    todo = jobs(*map(str, range(40)))
    assert run(fleet, todo) == scored(todo)
    assert {worker for workers in fleet.done_by.values() for worker in workers} == {0, 1}


def test_a_lost_node_is_done_without_and_used_again() -> None:
    def behaves(worker: int, job: Job) -> float | Exception:
        return WorkerLostError("node died") if worker == 1 and fleet.now > 30 else 2.0

    fleet = SimulatedFleet(behaves, nodes=lambda now: 1 if 30 < now < 90 else 2)
    todo = jobs(*map(str, range(60)))
    assert run(fleet, todo) == scored(todo)
    assert 2 in {worker for workers in fleet.done_by.values() for worker in workers}


def test_a_worker_beyond_the_fair_share_ends_after_its_job_and_comes_back_later() -> None:
    """Another search uses the cluster from second 30 to second 90."""
    fleet = SimulatedFleet(nodes=lambda now: 4, share=lambda now: 2 if 30 < now < 90 else 4)
    crew = Crew(fleet, 4, None, fleet.clock)
    crew.start()
    counts = {}
    todo = jobs(*map(str, range(120)))
    queue = JobQueue(todo)
    found = {}
    for outcome in Shift(crew, queue).run():
        queue.done(outcome.job)
        found[outcome.job.key, outcome.job.chunk] = outcome.responses
        counts[int(fleet.now)] = len(crew.members)
    assert found == scored(todo) and len(fleet.done_by) == sum(map(len, fleet.done_by.values())), "no job twice"
    assert {counts[second] for second in counts if 40 < second < 90} == {2}
    assert counts[max(counts)] == 4 and len(fleet.killed) == 2


def test_without_any_node_the_run_ends_in_one_line() -> None:
    fleet = SimulatedFleet(
        lambda worker, job: WorkerLostError("node died") if fleet.now > 30 else 2.0,
        nodes=lambda now: 0 if now > 30 else 2,
    )
    with pytest.raises(RunError, match="no node has room for a worker any more") as caught:
        run(fleet, jobs(*map(str, range(60))))
    assert "\n" not in str(caught.value) and fleet.now < 31 + crew_file.NODE_LIMIT + 3 * crew_file.TICK


def test_workers_that_are_killed_while_they_start_are_tried_again() -> None:
    fleet = SimulatedFleet(loads=lambda worker: WorkerLostError("out of memory") if worker < 2 else 10.0)
    todo = jobs("a", "b")
    assert run(fleet, todo) == scored(todo)


def test_workers_that_can_never_start_end_the_run_with_the_reason() -> None:
    with pytest.raises(RunError, match=r"could not start, tried 5 times \(out of memory\)"):
        run(SimulatedFleet(loads=lambda worker: WorkerLostError("out of memory")), jobs("a"))


def test_a_worker_that_raises_at_its_start_names_its_place() -> None:
    with pytest.raises(RunError, match=r"could not start \(worker 0 on node: no such folder\)"):
        run(SimulatedFleet(loads=lambda worker: CallError("no such folder")), jobs("a"))


def test_a_load_that_never_ends_is_given_up() -> None:
    fleet, todo = SimulatedFleet(loads=lambda worker: NEVER if worker == 1 else 10.0), jobs("a", "b")
    assert run(fleet, todo) == scored(todo)


def test_a_worker_without_a_place_is_not_waited_for_if_another_has_one(caplog: pytest.LogCaptureFixture) -> None:
    class Busy(SimulatedFleet):
        def spawn(self) -> tuple[Any, Any]:
            worker, ref = super().spawn()
            return worker, self._call(NEVER, None) if worker == 1 else ref

    fleet, todo = Busy(), jobs("a", "b")
    assert run(fleet, todo) == scored(todo)
    assert "waiting for 1 of 2 workers: the cluster is busy" in caplog.text


def test_a_cluster_that_stays_full_is_one_line() -> None:
    class Full(SimulatedFleet):
        def spawn(self) -> tuple[Any, Any]:
            return super().spawn()[0], self._call(NEVER, None)

    with pytest.raises(RunError, match="no worker has got a place"):
        run(Full(), jobs("a"))


def test_a_search_without_a_place_waits_for_as_long_as_others_use_the_cluster() -> None:
    class Late(SimulatedFleet):
        def spawn(self) -> tuple[Any, Any]:
            return super().spawn()[0], self._call(2 * crew_file.PLACE_LIMIT, "worker on node")

    fleet, todo = Late(nodes=lambda now: 4, share=lambda now: 1), jobs("a")
    assert run(fleet, todo, workers=4) == scored(todo) and fleet.now > 2 * crew_file.PLACE_LIMIT


def test_jobs_of_an_unfinished_queue_do_not_reach_the_next_one() -> None:
    fleet = SimulatedFleet()
    crew = Crew(fleet, 2, None, fleet.clock)
    crew.start()
    left = Shift(crew, JobQueue(jobs("a", "b"))).run()
    next(left)
    left.close()
    todo = jobs("c", "d")
    assert outcomes(crew, JobQueue(todo)) == scored(todo)


def test_a_question_to_any_worker_is_asked_again_when_that_worker_is_lost() -> None:
    fleet = SimulatedFleet()
    crew = Crew(fleet, 2, None, fleet.clock)
    crew.start()
    answers: list[Any] = [WorkerLostError("killed"), "found"]
    member, value = crew.ask("fingerprint", lambda worker: fleet._call(1.0, answers.pop(0)))
    assert value == "found" and member in crew.members and len(fleet.killed) == 1


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_to_workers_the_outcomes_are_the_same(seed: int) -> None:
    """Deaths, silence and sickness at random places: every job is scored once, with its own result."""
    import random

    draw = random.Random(seed)
    moods: dict[tuple[int, str, str], Any] = {}

    def behaves(worker: int, job: Job) -> Any:
        trouble = (WorkerLostError("killed"), NEVER, "ValueError: sick")
        mood = draw.choice(trouble) if draw.random() < 0.04 else draw.uniform(1.0, 5.0)
        return moods.setdefault((worker, job.key, job.chunk), mood)

    fleet, todo = SimulatedFleet(behaves, nodes=lambda now: 4), jobs(*map(str, range(30)))
    assert run(fleet, todo, workers=4) == scored(todo)


def test_limits_are_generous_where_little_is_known() -> None:
    pace = Pace()
    assert pace.limit("search/0") == UNTIMED
    pace.record("search/0", 2.0)
    assert pace.limit("search/0") == KNOWN and pace.limit("search/1") == UNKNOWN
    assert pace.limit("search/0", is_first=True) == KNOWN + FIRST
    pace.record("search/0", 100.0)
    assert pace.limit("search/0") == 600.0 and pace.limit("search/0", tries=1) == 600.0 * GROWTH
    assert Pace(7.0).limit("search/0", is_first=True) == 7.0
