"""Which job a free worker takes next."""

import random
from collections import Counter

import pytest

from evomerge.workers.jobs import Job
from evomerge.workers.pools._dispatch import JobQueue
from tests.toys import toy_baselines

RECIPE = toy_baselines()["base"]


def jobs(**chunks: int) -> list[Job]:
    return [Job(key, RECIPE, f"search/{i}") for key, count in chunks.items() for i in range(count)]


def taken(dispatch: JobQueue, holding: str | None) -> tuple[str, str] | None:
    job = dispatch.next(holding)
    return None if job is None else (job.key, job.chunk)


def test_no_job_no_work() -> None:
    assert JobQueue([]).next(None) is None
    assert JobQueue([]).next("a") is None


def test_a_worker_stays_with_the_candidate_that_its_model_holds() -> None:
    dispatch = JobQueue(jobs(a=3, b=3))
    assert taken(dispatch, None) == ("a", "search/0")
    assert [taken(dispatch, "a") for _ in range(2)] == [("a", "search/1"), ("a", "search/2")]
    assert taken(dispatch, "a") == ("b", "search/0")


def test_another_worker_opens_a_new_candidate_before_it_helps() -> None:
    dispatch = JobQueue(jobs(a=3, b=2))
    assert taken(dispatch, None) == ("a", "search/0")
    assert taken(dispatch, None) == ("b", "search/0")


def test_with_nothing_new_it_helps_where_most_is_left() -> None:
    dispatch = JobQueue(jobs(a=2, b=4))
    taken(dispatch, None)
    taken(dispatch, None)
    assert taken(dispatch, "gone") == ("b", "search/1")


def test_what_may_be_needed_later_is_taken_when_nothing_else_waits() -> None:
    dispatch = JobQueue(jobs(a=1, b=1))
    dispatch.put(jobs(a=1, b=1), [Job("b", RECIPE, "search/1"), Job("a", RECIPE, "search/1")])
    assert len(dispatch) == 2
    assert [taken(dispatch, "a") for _ in range(2)] == [("a", "search/0"), ("b", "search/0")]
    assert len(dispatch) == 0
    assert [taken(dispatch, "a") for _ in range(3)] == [("a", "search/1"), ("b", "search/1"), None]


def test_what_a_worker_has_is_not_given_to_another() -> None:
    dispatch = JobQueue()
    dispatch.put([], jobs(a=2))
    ahead = dispatch.next(None)
    assert ahead is not None
    dispatch.put(jobs(a=2))
    assert taken(dispatch, "a") == ("a", "search/1") and dispatch.next("a") is None
    dispatch.requeue(ahead)
    assert dispatch.next("a") == ahead, "its worker was lost"
    dispatch.done(ahead)
    dispatch.put(jobs(a=1))
    assert len(dispatch) == 1


def test_what_waited_is_replaced() -> None:
    dispatch = JobQueue(jobs(a=3, b=1))
    dispatch.put(jobs(b=1), jobs(c=1))
    assert [taken(dispatch, None) for _ in range(3)] == [("b", "search/0"), ("c", "search/0"), None]


def test_dropping_a_failed_candidate_forgets_its_other_jobs() -> None:
    dispatch = JobQueue(jobs(a=3, b=1))
    taken(dispatch, None)
    dispatch.drop("a")
    dispatch.drop("never there")
    assert taken(dispatch, "a") == ("b", "search/0")
    assert dispatch.next("a") is None


def test_a_lost_job_comes_back_first() -> None:
    dispatch = JobQueue(jobs(a=2))
    lost = dispatch.next(None)
    assert lost is not None
    dispatch.requeue(lost)
    assert dispatch.next("a") == lost
    dispatch.next("a")
    assert dispatch.next("a") is None
    dispatch.requeue(lost)
    assert dispatch.next(None) == lost


@pytest.mark.parametrize("seed", range(5))
def test_every_job_is_given_exactly_once_whatever_the_workers_do(seed: int) -> None:
    draw = random.Random(seed)
    todo = jobs(**{f"k{i}": draw.randrange(1, 5) for i in range(8)})
    dispatch, workers, given = JobQueue(todo), [None] * 3, Counter[tuple[str, str]]()
    holding: list[str | None] = list(workers)
    lost = 0
    while True:
        who = draw.randrange(3)
        job = dispatch.next(holding[who])
        if job is None:
            break
        if lost < 4 and draw.random() < 0.2:
            lost, holding[who] = lost + 1, None
            dispatch.requeue(job)
            continue
        holding[who] = job.key
        given[job.key, job.chunk] += 1
    assert given == Counter((job.key, job.chunk) for job in todo)
