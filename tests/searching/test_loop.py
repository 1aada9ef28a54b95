"""The loop through its seams: toy scorer, toy pool, real ledger, real space and optimizers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evomerge.errors import RunError
from evomerge.optimizers import Surrogate, Vector
from evomerge.workers.jobs import Job
from tests.toys import ASKING, BEST, Run, ToyPool, toy_baselines, toy_optimizer, toy_space, weights


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_baselines_are_scored_first_base_in_front(tmp_path: Path) -> None:
    run = Run(tmp_path / "trials.jsonl")
    run.search(6)
    rows = toy_baselines()
    assert list(rows) == ["base", "left", "right", "uniform", "default"]
    keys = list(dict.fromkeys(job.key for job in run.pool.jobs))
    assert keys[: len(rows)] == [recipe.key() for recipe in rows.values()]


def test_result_is_never_worse_than_the_best_baseline(tmp_path: Path) -> None:
    run = Run(tmp_path / "trials.jsonl")
    board = run.search(1)
    assert board.ranked()[0][1] >= max(run.scores[0])


@pytest.mark.parametrize("budget", [1, 6, 13])
def test_exactly_the_budget_is_asked(tmp_path: Path, budget: int) -> None:
    run = Run(tmp_path / "trials.jsonl")
    run.search(budget)
    assert len(run.asked) == budget
    assert [len(scores) for scores in run.scores[1:-1]] == [5, 6][: budget // 6]  # five seeds, then populations


@pytest.mark.parametrize("name", ASKING)
def test_a_larger_budget_continues_exactly(tmp_path: Path, name: str) -> None:
    whole = Run(tmp_path / "whole.jsonl")
    expected = whole.search(27, toy_optimizer(name))
    first = Run(tmp_path / "cut.jsonl")
    first.search(10, toy_optimizer(name))
    second = Run(tmp_path / "cut.jsonl")
    board = second.search(27, toy_optimizer(name))
    assert second.asked == whole.asked
    assert second.scores == whole.scores
    assert [c.key for c, _ in board.ranked()] == [c.key for c, _ in expected.ranked()]
    assert sorted(first.pool.paid() + second.pool.paid()) == sorted(whole.pool.paid())


@pytest.mark.parametrize("name", ASKING)
def test_a_repeated_search_pays_nothing(tmp_path: Path, name: str) -> None:
    Run(tmp_path / "trials.jsonl").search(12, toy_optimizer(name))
    before = (tmp_path / "trials.jsonl").read_bytes()
    again = Run(tmp_path / "trials.jsonl")
    again.search(12, toy_optimizer(name))
    assert again.pool.jobs == [] and again.evaluator.scored_items == 0
    assert (tmp_path / "trials.jsonl").read_bytes() == before


def test_cma_finds_the_optimum(tmp_path: Path) -> None:
    board = Run(tmp_path / "trials.jsonl").search(120)
    assert weights(board.ranked()[0][0].recipe) == pytest.approx(BEST, abs=0.05)


def test_the_same_recipe_is_paid_once(tmp_path: Path) -> None:
    class Stuck:
        """Asks the same point for ever."""

        def __init__(self) -> None:
            self.told: list[list[float]] = []

        def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
            return [np.array([0.9, 0.9])] * 4

        def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
            self.told.append(list(losses))

        def centre(self) -> None:
            return None

    run, stuck = Run(tmp_path / "trials.jsonl"), Stuck()
    run.search(8, stuck)
    key = toy_space().decode(np.array([0.9, 0.9])).key()
    assert run.pool.paid().count((key, "search/0")) == 1
    assert len(run.pool.paid()) == len(set(run.pool.paid()))
    assert [len(set(losses)) for losses in stuck.told] == [1, 1]


def test_an_optimizer_with_nothing_left_ends_the_search(tmp_path: Path) -> None:
    class Spent:
        def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
            return []

        def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
            raise AssertionError("there was nothing to tell")

        def centre(self) -> None:
            return None

    run = Run(tmp_path / "trials.jsonl")
    run.search(50, Spent())
    assert run.asked == [] and len(run.scores) == 1


def beyond(job: Job) -> bool:
    """A third of the toy space: what fails in the tests below."""
    return float(weights(job.recipe)[0]) > 0.9 and job.key != toy_baselines()["left"].key()


@pytest.mark.parametrize("name", ASKING)
def test_failed_candidates_are_recorded_rank_last_and_stop_nothing(tmp_path: Path, name: str) -> None:
    pool = ToyPool(fails=lambda job: "out of memory" if beyond(job) else None)
    run = Run(tmp_path / "trials.jsonl", pool)
    board = run.search(30, toy_optimizer(name))
    assert len(run.asked) == 30
    failures = board.failures()
    assert failures and set(failures.values()) == {"out of memory"}
    assert not any(beyond(Job(c.key, c.recipe, "")) for c, _ in board.ranked())
    recorded = [line for line in lines(tmp_path / "trials.jsonl") if "error" in line]
    assert len(recorded) == len(failures)
    assert all("recipe" in line for line in recorded), "a failure must say what failed"


@pytest.mark.parametrize("name", ASKING)
def test_a_resumed_search_remembers_failures(tmp_path: Path, name: str) -> None:
    def pool() -> ToyPool:
        return ToyPool(fails=lambda job: "out of memory" if beyond(job) else None)

    whole = Run(tmp_path / "whole.jsonl", pool())
    whole.search(24, toy_optimizer(name))
    Run(tmp_path / "cut.jsonl", pool()).search(9, toy_optimizer(name))
    rest = Run(tmp_path / "cut.jsonl", pool())
    rest.search(24, toy_optimizer(name))
    assert rest.asked == whole.asked


def test_a_failure_in_the_second_chunk_takes_the_whole_candidate(tmp_path: Path) -> None:
    pool = ToyPool(fails=lambda job: "late" if beyond(job) and job.chunk == "search/1" else None)
    run = Run(tmp_path / "trials.jsonl", pool)
    board = run.search(30)
    assert set(board.failures().values()) == {"late"}
    assert not set(board.failures()) & {c.label for c, _ in board.ranked()}


def test_a_grade_that_refuses_is_a_failed_candidate(tmp_path: Path) -> None:
    pool = ToyPool(answers=lambda job: [None] * 3 if beyond(job) else None)
    board = Run(tmp_path / "trials.jsonl", pool).search(30)
    assert set(board.failures().values()) == {"an answer is missing"}


def test_a_grade_of_nan_ranks_last_and_is_told_as_worst(tmp_path: Path) -> None:
    pool = ToyPool(answers=lambda job: [math.nan] * 3 if beyond(job) else None)
    run = Run(tmp_path / "trials.jsonl", pool)
    board = run.search(30)
    assert len(run.asked) == 30
    assert not any(math.isnan(score) for _, score in board.ranked())
    for line in (tmp_path / "trials.jsonl").read_text().splitlines():
        assert "NaN" not in line, "the ledger must stay JSON"
    assert board.failures(), "a score that is not a number is a failed candidate, with its reason"


def test_a_base_that_cannot_be_scored_ends_the_search(tmp_path: Path) -> None:
    base = toy_baselines()["base"].key()
    run = Run(tmp_path / "trials.jsonl", ToyPool(fails=lambda job: "cannot load" if job.key == base else None))
    with pytest.raises(RunError, match="base.*cannot load"):
        run.search(6)
    assert run.asked == []


def test_a_failed_expert_baseline_is_only_a_row(tmp_path: Path) -> None:
    left = toy_baselines()["left"].key()
    run = Run(tmp_path / "trials.jsonl", ToyPool(fails=lambda job: "NaN" if job.key == left else None))
    board = run.search(6)
    assert board.failures() == {"left": "NaN"} and len(run.asked) == 6


def test_a_failure_outside_the_search_slice_leaves_the_search_as_it_was(tmp_path: Path) -> None:
    """A candidate that dies on `select` keeps its search score, or a larger budget would not continue exactly."""
    whole = Run(tmp_path / "whole.jsonl")
    whole.search(24)
    pool = ToyPool(fails=lambda job: "out of memory" if job.chunk.startswith("select") else None)
    first = Run(tmp_path / "cut.jsonl", pool)
    board = first.search(12)
    again = Run(tmp_path / "cut.jsonl", pool)
    again.evaluator.evaluate([candidate for candidate, _ in board.ranked()[:3]], "select")
    again.ledger.close()
    last = Run(tmp_path / "cut.jsonl")
    last.search(24)
    assert last.asked == whole.asked


def test_a_base_that_failed_once_is_tried_again(tmp_path: Path) -> None:
    path, base = tmp_path / "trials.jsonl", toy_baselines()["base"].key()
    with pytest.raises(RunError, match="the base itself cannot be scored: out of memory"):
        Run(path, ToyPool(fails=lambda job: "out of memory" if job.key == base else None)).search(12)
    again, whole = Run(path), Run(tmp_path / "whole.jsonl")
    board, expected = again.search(12), whole.search(12)
    assert [(c.key, score) for c, score in board.ranked()] == [(c.key, score) for c, score in expected.ranked()]
    assert len(again.pool.jobs) < len(whole.pool.jobs), "what else was paid for is not paid again"
