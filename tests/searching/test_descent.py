"""A descent on slopes in a whole run: the same after a kill and with any number of workers, and paid for."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.errors import RunError
from evomerge.ledger.ledger import Ledger
from evomerge.optimizers import SlopeReply, SlopeRequest, create
from evomerge.scoring.protocol import task_of
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.descent import descend
from evomerge.searching.race import RaceConfig
from evomerge.searching.slope_evaluator import PART, TIMED, SlopeEvaluator, SlopeItems
from evomerge.workers.jobs import Job, Outcome, Slopes
from tests.conftest import SMALL, evomerge
from tests.experiment.test_run import same_run
from tests.toys import BEST, Run, ToyPool, cube, toy_space

DESCENT = (*SMALL, "optimizer=slope")
MIXED = (*SMALL, "optimizer=cma", "optimizer.start=slope")


class SlopePool(ToyPool):
    """Slopes of the toy's score, the same in each of its two tensors; every item has the same loss."""

    def outcome(self, job: Job) -> Outcome:
        if job.slope is None or self._fails(job):
            return super().outcome(job)
        self.jobs.append(job)
        weights = [float(source.settings["weight"]) for source in job.recipe.slices[0].sources]
        loss = sum((w - b) ** 2 for w, b in zip(weights, BEST, strict=True))
        total = sum(job.slope.weights)
        sums = {("weight", i): np.full(2, total * (w - b)) for i, (w, b) in enumerate(zip(weights, BEST, strict=True))}
        wanted = job.slope.genes
        slopes = Slopes((loss,) * len(job.slope.items), sums if wanted else {}, 2.5 if job.slope.measure else None)
        return Outcome(job, slopes=slopes)


ITEMS = SlopeItems.of([f"a/{i}" for i in range(20)] + [f"b/{i}" for i in range(5)], {"a": 1.0, "b": 3.0, "c": 1.0})


Make = Callable[..., SlopeEvaluator]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "run.jsonl")
    yield made
    made.ledger.close()


@pytest.fixture
def evaluator(tmp_path: Path) -> Iterator[Make]:
    """Makes evaluators over one ledger, which is opened anew for each."""
    opened: list[Ledger] = []

    def make(pool: ToyPool | None = None) -> SlopeEvaluator:
        for ledger in opened:
            ledger.close()
        opened.append(Ledger(tmp_path / "trials.jsonl", {}))
        return SlopeEvaluator(ITEMS, toy_space(), pool or SlopePool(), opened[-1])

    yield make
    opened[-1].close()


def request(x: float = 0.5, items: int = 25, derivative: bool = True) -> SlopeRequest:
    return SlopeRequest(np.full(2, x), tuple(range(items)), derivative)


def ask(evaluator: SlopeEvaluator, request: SlopeRequest) -> SlopeReply:
    return evaluator.reply(evaluator.locate(request), 2.0)


def test_weights_give_every_task_its_share_of_the_mean_loss() -> None:
    share = {
        task: sum(w for item, w in zip(ITEMS.items, ITEMS.weights, strict=True) if task_of(item) == task)
        for task in "ab"
    }
    assert sum(ITEMS.weights) == pytest.approx(25) and share["b"] == pytest.approx(3 * share["a"])


def test_a_slope_is_that_of_the_weighted_mean_loss_in_the_cube(evaluator: Make) -> None:
    found = ask(evaluator(), request())
    value = 0.5 * 1.5  # of a weight, whose range is 1.5
    assert found.losses.tolist() == pytest.approx([sum((value - b) ** 2 for b in BEST)] * 25)
    assert found.slope is not None
    assert found.slope.tolist() == pytest.approx([1.5 * 2 * (value - b) for b in BEST])


def test_a_batch_is_shared_among_workers_in_parts(evaluator: Make) -> None:
    pool = SlopePool()
    ask(evaluator(pool), request())
    parts = [job.slope.items for job in pool.jobs if job.slope]
    assert [len(part) for part in parts] == [PART, PART, PART, 1]
    assert [item for part in parts for item in part] == list(ITEMS.items)


def test_an_answer_that_is_recorded_is_not_computed_again(evaluator: Make) -> None:
    first = evaluator()
    asked = [request(), request(derivative=False), request(x=0.4), request(items=3)]
    answers = [ask(first, one) for one in asked]
    assert first.computed == 2.0 * (25 + 25 + 3) + 25
    pool = SlopePool()
    second = evaluator(pool)

    def plain(reply: SlopeReply) -> tuple[Any, Any]:
        return reply.losses.tolist(), None if reply.slope is None else reply.slope.tolist()

    assert [plain(ask(second, one)) for one in asked] == [plain(answer) for answer in answers]
    assert not pool.jobs and second.computed == 0.0


def test_the_price_is_measured_once(evaluator: Make, run: Run) -> None:
    def left(items: int) -> RemainingBudget:
        return RemainingBudget(BudgetConfig(evaluations=None, items=items), run.evaluator, run.ledger)

    first = evaluator()
    assert first.price(np.full(2, 0.5), left(100)).price == 2.5
    pool = SlopePool()
    assert evaluator(pool).price(np.zeros(2), left(50)).allowance == 100.0
    assert not pool.jobs


def test_a_model_that_cannot_be_differentiated_ends_the_run_with_a_remedy(evaluator: Make, run: Run) -> None:
    pool = SlopePool(fails=lambda job: "RuntimeError: no backward" if job.slope else None)
    remaining = RemainingBudget(BudgetConfig(), run.evaluator, run.ledger)
    with pytest.raises(RunError, match="cannot be computed .RuntimeError: no backward.; choose optimizer=cma"):
        evaluator(pool).price(np.zeros(2), remaining)


def test_a_slope_that_is_not_finite_is_not_recorded(evaluator: Make) -> None:
    class Overflowing(SlopePool):
        def outcome(self, job: Job) -> Outcome:
            found = super().outcome(job)
            assert found.slopes is not None
            found.slopes.sums["weight", 0][1] = np.nan
            return found

    with pytest.raises(RunError, match=r"not finite; set model\.dtype=float32, or choose optimizer=cma"):
        ask(evaluator(Overflowing()), request())
    assert ask(evaluator(), request()).slope is not None, "the ledger can be read"


def test_a_point_that_cannot_be_computed_ends_the_descent_and_not_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A descent may diverge after some steps; its iterates so far are its result."""
    seen: list[Job] = []

    def fails(job: Job) -> str | None:
        seen.append(job)
        return "RuntimeError: overflow" if len(seen) > 5 else None

    run = Run(tmp_path / "trials.jsonl", SlopePool(fails))
    optimizer: Any = create("slope", cube(2), [], 1, {"batch": PART})
    remaining = RemainingBudget(BudgetConfig(items=10_000), run.evaluator, run.ledger)
    descend(optimizer, SlopeEvaluator(ITEMS, toy_space(), run.pool, run.ledger), remaining, np.full(2, 0.5))
    run.ledger.close()
    assert "the descent ends after 4 steps" in caplog.text and "overflow" in caplog.text
    assert optimizer.centre() is not None


class SlowPool(SlopePool):
    """A job takes a minute, or two after the first `steady` jobs."""

    def __init__(self, clock: list[float], steady: int) -> None:
        super().__init__()
        self._clock, self._steady = clock, steady

    def outcome(self, job: Job) -> Outcome:
        self._clock[0] += 60.0 if len(self.jobs) < self._steady else 120.0
        return super().outcome(job)


@dataclass(frozen=True)
class Timed:
    """A descent with a budget in hours: its iterates, the jobs that were computed, and how it ended."""

    iterates: list[list[float]]
    jobs: int
    stopped_by_time: bool


Command = Callable[..., Timed]


@pytest.fixture(params=[True, False], ids=["baselines scored", "baselines in the ledger"])
def command(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a descent on one ledger; candidates take a second for each item, so a backward pass takes much longer."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def made(hours: float, steady: int = 10_000) -> Timed:
        pool = SlowPool(clock, steady)
        run = Run(tmp_path / "trials.jsonl", pool)
        if request.param:
            run.evaluator.scored_items, run.evaluator.scoring_seconds = 60, 60.0
        remaining = RemainingBudget(BudgetConfig(evaluations=None, hours=hours), run.evaluator, run.ledger)
        optimizer: Any = create("slope", cube(2), [], 1, {"passes": 1000, "origin": "middle"})
        iterates: list[list[float]] = []

        class Watch:
            def descent(self, step: int, loss: float) -> None:
                iterates.append(optimizer._descender.point.tolist())

        evaluator = SlopeEvaluator(ITEMS, toy_space(), pool, run.ledger)
        try:
            descend(optimizer, evaluator, remaining, np.full(2, 0.5), [Watch()])
        finally:
            run.ledger.close()
        return Timed([*iterates, optimizer.centre().tolist()], len(pool.jobs), bool(run.ledger.stops))

    return made


def test_a_descent_that_time_has_ended_ends_there_again(command: Command) -> None:
    first = command(1.0, steady=20)
    assert 30 < first.jobs <= 43 and first.stopped_by_time
    again = command(1.0)
    assert (again.iterates, again.jobs) == (first.iterates, 0)
    longer = command(1.2)
    assert longer.jobs > 5 and longer.iterates[: len(first.iterates) - 1] == first.iterates[:-1]


def test_the_steps_of_a_descent_fall_to_nothing_within_the_hours(command: Command) -> None:
    """Its length follows from the seconds of slopes, not from those of candidates."""
    found = command(1.0)
    assert not found.stopped_by_time and 45 < found.jobs <= 60
    moves = np.abs(np.diff(found.iterates[:-1], axis=0)).max(1)
    assert moves[-1] < 0.1 * moves.max()


def test_measuring_the_seconds_of_slopes_is_paid_for(run: Run) -> None:
    remaining = RemainingBudget(BudgetConfig(items=60, hours=1.0), run.evaluator, run.ledger)
    optimizer: Any = create("slope", cube(2), [], 1, {})
    descend(optimizer, SlopeEvaluator(ITEMS, toy_space(), SlopePool(), run.ledger), remaining, np.full(2, 0.5))
    assert remaining.spent == PART * 3.5 + TIMED * 2.5


def test_a_descent_that_the_budget_does_not_pay_for_is_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    remaining = RemainingBudget(BudgetConfig(items=10), run.evaluator, run.ledger)
    optimizer: Any = create("slope", cube(2), [], 1, {})
    descend(optimizer, SlopeEvaluator(ITEMS, toy_space(), SlopePool(), run.ledger), remaining, np.full(2, 0.5))
    assert optimizer.centre() is None and "does not pay for a step" in caplog.text
    assert remaining.spent == PART * 3.5, "the price was measured"


def test_a_descent_leaves_less_for_races(run: Run) -> None:
    remaining = RemainingBudget(BudgetConfig(items=64), run.evaluator, run.ledger)
    remaining.record_slopes(32.0)
    assert remaining.widen_race(RaceConfig(least=1, most=1), 2).most == 2


@pytest.fixture(scope="module", params=[DESCENT, MIXED], ids=["slope", "cma"])
def overrides(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="module")
def descended(overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("descended")
    said = evomerge("+experiment=quickstart", *overrides, cwd=cwd)
    assert said.code == 0 and "descent      1  loss" in said.out, said
    return cwd / "runs" / "quickstart"


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    return [float(np.mean(line["losses"])) for line in lines if line.get("derivatives")]


def test_the_loss_falls_and_the_merge_is_better_than_its_start(descended: Path) -> None:
    found = losses(descended)
    assert np.mean(found[-2:]) < 0.8 * np.mean(found[:2])
    rows = json.loads((descended / "result.json").read_text())["rows"]
    assert rows[-1]["scores"]["select"] > max(row["scores"]["select"] for row in rows[:-1])


def test_its_cost_is_in_the_result(descended: Path, overrides: tuple[str, ...]) -> None:
    counts = json.loads((descended / "result.json").read_text())["counts"]
    lines = [json.loads(line) for line in (descended / "trials.jsonl").read_text().splitlines()]
    price = next(line["price"] for line in lines if "price" in line)
    assert 1.5 < price < 4.0
    slopes = [line for line in lines if "slope" in line]
    cost = sum(len(line["losses"]) * (price if line["derivatives"] else 1.0) for line in slopes) + 8 * (1 + price)
    if overrides == DESCENT:
        assert counts["search_item_equivalents"] == pytest.approx(cost, abs=1)
    else:
        assert counts["search_item_equivalents"] > cost


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.8])
def test_cut_anywhere_the_run_ends_the_same(
    descended: Path, overrides: tuple[str, ...], tmp_path: Path, kept: float
) -> None:
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    data = (descended / "trials.jsonl").read_bytes()
    (folder / "trials.jsonl").write_bytes(data[: int(len(data) * kept)])
    assert evomerge("+experiment=quickstart", *overrides, cwd=tmp_path).code == 0
    same_run(folder, descended)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning", "default::FutureWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_number(descended: Path, overrides: tuple[str, ...], tmp_path: Path, workers: int) -> None:
    pytest.importorskip("ray")
    pool = ("pool=ray", f"pool.workers={workers}", "pool.num_cpus=0.25")
    said = evomerge("+experiment=quickstart", *overrides, *pool, cwd=tmp_path)
    assert said.code == 0, said
    folder = tmp_path / "runs" / "quickstart"
    assert (folder / "recipe.yaml").read_bytes() == (descended / "recipe.yaml").read_bytes()
    assert losses(folder) == losses(descended)


def test_a_replay_finds_the_same_scores(descended: Path) -> None:
    said = evomerge("replay", str(descended), cwd=descended)
    assert said.code == 0 and "DIFFERS" not in said.out, said
