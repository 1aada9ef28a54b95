"""A limit on time: slices end early for all models alike, and a repeated run uses the same items."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.finalise.config import FinaliseConfig
from evomerge.finalise.finaliser import Finaliser
from evomerge.ledger import Cut, Ledger
from evomerge.scoring.protocol import SLICES, Chunk, Plan
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.deadline import Deadline, TimedEvaluation
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.loop import search
from evomerge.searching.stages import Candidate, Stage
from evomerge.workers.jobs import Job, Outcome
from tests.searching.test_budget import Clock
from tests.toys import EXPERTS, ToyPool, ToyScorer, toy_baselines, toy_optimizer, toy_space

CHUNKS, ITEMS = 16, 3
BUDGET = {"hours": 0.1}


class WideScorer(ToyScorer):
    """Sixteen chunks of three items a slice."""

    def __init__(self) -> None:
        chunks = {
            name: tuple(
                Chunk(f"{name}/{i}", name, tuple(f"toy/{name}/{ITEMS * i + j}" for j in range(ITEMS)))
                for i in range(CHUNKS)
            )
            for name in SLICES
        }
        self.plan, self.fingerprint = Plan(chunks, {"toy": 1.0}), "toy"


class SlowPool(ToyPool):
    """A pool in which each item takes `seconds`."""

    def __init__(self, clock: Clock, seconds: float, fails: Callable[[Job], str | None] = lambda job: None) -> None:
        super().__init__(fails)
        self.clock, self.seconds = clock, seconds

    def outcome(self, job: Job) -> Outcome:
        self.clock.now += ITEMS * self.seconds
        found = super().outcome(job)
        return Outcome(job, found.responses, found.error, seconds=ITEMS * self.seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "trials.jsonl", {})
    yield made
    made.close()


def models(count: int) -> list[Candidate]:
    return [Candidate.of(label, recipe) for label, recipe in toy_baselines().items()][:count]


@pytest.mark.parametrize(("seconds", "used"), [(1.0, 16), (5.0, 16), (7.0, 13), (10.0, 9), (200.0, 1)])
def test_a_slice_ends_for_all_models_after_the_same_chunk(
    clock: Clock, ledger: Ledger, seconds: float, used: int
) -> None:
    pool = SlowPool(clock, seconds)
    evaluator = Evaluator(WideScorer(), pool, ledger)
    timed = TimedEvaluation(evaluator, deadline := Deadline(0.25), BUDGET)  # 872 s
    three = models(3)
    timed.evaluate(three, "holdout")
    assert len(evaluator.plan.chunks["holdout"]) == used
    assert {len(evaluator.item_scores(model.key, "holdout")) for model in three} == {ITEMS * used}
    assert deadline.left() >= 0 or used == 1, "the first chunk is scored in any case"
    assert [cut.chunks for cut in ledger.cuts] == ([] if used == CHUNKS else [used])


def test_a_share_of_the_time_is_left_for_what_follows(clock: Clock, ledger: Ledger) -> None:
    evaluator = Evaluator(WideScorer(), SlowPool(clock, 4.0), ledger)
    timed = TimedEvaluation(evaluator, deadline := Deadline(0.25), BUDGET)
    deadline.kept = 72.0
    timed.evaluate(models(3), "select", share=0.25)
    assert deadline.left() >= 600.0
    assert len(evaluator.plan.chunks["select"]) == 5


def test_a_repeated_run_uses_the_same_items_and_scores_none(clock: Clock, tmp_path: Path) -> None:
    counts = []
    for _ in range(2):
        ledger = Ledger(tmp_path / "trials.jsonl", {})
        pool = SlowPool(clock, 10.0)
        evaluator = Evaluator(WideScorer(), pool, ledger)
        evaluator.apply_cuts(ledger.cuts)
        TimedEvaluation(evaluator, Deadline(0.25, started=0.0), BUDGET).evaluate(models(3), "holdout")
        counts.append((len(evaluator.plan.items("holdout")), len(pool.jobs), len(ledger.cuts)))
        ledger.close()
    assert counts == [(27, 27, 1), (27, 0, 1)], "the clock of the second run is at its end from the start"


def test_a_failed_model_shortens_no_slice_of_a_finished_run(clock: Clock, tmp_path: Path) -> None:
    three, counts = models(3), []
    for _ in range(2):
        ledger = Ledger(tmp_path / "trials.jsonl", {})
        pool = SlowPool(clock, 1.0, lambda job: "out of memory" if job.key == three[1].key else None)
        evaluator = Evaluator(WideScorer(), pool, ledger)
        TimedEvaluation(evaluator, Deadline(0.25, started=0.0), BUDGET).evaluate(three, "holdout")
        counts.append((len(evaluator.plan.chunks["holdout"]), len(pool.jobs), len(ledger.cuts)))
        ledger.close()
        clock.now = 1000.0  # all of the time is used
    assert counts == [(CHUNKS, 2 * CHUNKS + 1, 0), (CHUNKS, 0, 0)], "what has failed is not missing"


def test_an_optional_step_that_was_left_out_stays_left_out(clock: Clock, ledger: Ledger) -> None:
    evaluator = Evaluator(WideScorer(), SlowPool(clock, 1.0), ledger)
    timed = TimedEvaluation(evaluator, Deadline(0.1), BUDGET)  # 334.8 s
    assert timed.affords("cloud", 10**6, 0.2), "before the first score nothing is known"
    evaluator.evaluate(models(1), "search")
    assert timed.affords("cloud", 40, 0.2)
    assert not timed.affords("simplify", 400, 0.2) and ledger.cuts == [Cut("simplify", 0, BUDGET)]
    assert not timed.affords("simplify", 0, 0.2)


@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.2, 0.5, 1.0])
def test_a_whole_search_ends_in_time_at_every_pace(clock: Clock, ledger: Ledger, seconds: float) -> None:
    """Baselines, generations, select and holdout: 4 rows, 48 items a slice, 360 seconds."""
    pool = SlowPool(clock, seconds)
    evaluator = Evaluator(WideScorer(), pool, ledger)
    budget = BudgetConfig(evaluations=None, hours=0.1)
    deadline = Deadline(budget.hours)
    timed = TimedEvaluation(evaluator, deadline, BUDGET)
    rows = toy_baselines()
    left = RemainingBudget(budget, evaluator, ledger, reserve=16 * 48, deadline=deadline)
    board = search(evaluator, toy_space(), toy_optimizer(), rows, left, timed=timed)
    config = FinaliseConfig(top=3, simplify=4, cloud=8)
    final = Finaliser(evaluator, board, rows, config, seed=1, timed=timed)
    result = final.run(toy_space(), {ref: label for label, ref in EXPERTS.items()})
    assert clock.now <= 360.0
    assert clock.now > 200.0 or left.spent > 100 * 48, "most of the time is used"
    assert all(row.scores["holdout"] == row.scores["holdout"] for row in result.rows)


def test_slices_of_another_budget_are_whole(clock: Clock, ledger: Ledger) -> None:
    evaluator = Evaluator(WideScorer(), SlowPool(clock, 1.0), ledger)
    evaluator.cut("holdout", 2, BUDGET)
    evaluator.cut("search", 5, None)
    other: dict[str, Any] = {"hours": 9.0}
    again = Evaluator(WideScorer(), SlowPool(clock, 1.0), ledger)
    again.apply_cuts(cut for cut in ledger.cuts if cut.budget in (None, other))
    assert [len(again.plan.chunks[name]) for name in SLICES] == [5, 16, 16]


def test_a_time_that_cannot_do_is_refused_after_one_chunk(clock: Clock, ledger: Ledger) -> None:
    pool = SlowPool(clock, 20.0)  # 4 baselines, 3 slices, 3 items: 720 s
    evaluator = Evaluator(WideScorer(), pool, ledger)
    timed = TimedEvaluation(evaluator, Deadline(0.1), BUDGET)
    with pytest.raises(RunError, match=r"budget.hours=0.1: 4 baselines .* take about 12 min here, and 5 min are left"):
        timed.evaluate(models(4), "search", share=0.3)
    assert len(pool.jobs) == 1


def test_a_run_that_had_begun_is_finished_however_late(clock: Clock, ledger: Ledger) -> None:
    evaluator = Evaluator(WideScorer(), SlowPool(clock, 1.0), ledger)
    evaluator.evaluate_stages(evaluator.plan.chunks["search"], iter([Stage(models(1), 1)]))
    clock.now = 10**6
    TimedEvaluation(evaluator, Deadline(0.1, started=0.0), BUDGET).evaluate(models(4), "search", share=0.3)
    assert len(evaluator.plan.chunks["search"]) == 1
