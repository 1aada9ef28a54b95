"""The asynchronous search: budgets, failures, races, and replay after kills, with workers of any speed."""

import heapq
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from evomerge.errors import ConfigError, RunError
from evomerge.ledger.ledger import Ledger
from evomerge.optimizers import Optimizer, Surrogate, Vector, check, create
from evomerge.scoring.protocol import SLICES, Chunk, Plan
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.deadline import Deadline
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.item_order import ItemOrder
from evomerge.searching.leaderboard import Leaderboard
from evomerge.searching.loop import ledger_header, search
from evomerge.searching.open_race import OpenRace
from evomerge.searching.race import RaceConfig
from evomerge.searching.stages import Candidate
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.pools import DemandQueue, JobQueue
from tests.toys import BEST, ToyPool, ToyScorer, cube, toy_baselines, toy_space, weights

ABLE = ("cma", "grid", "optuna", "random", "sobol")
CHUNKS, ITEMS = 6, 8  # of a slice, and of a chunk
RACE = RaceConfig(least=8, most=24)
SEEDS = 5  # which are baselines, so nothing is paid for them


class Killed(BaseException):
    """The process dies."""


class LongScorer(ToyScorer):
    """Slices of several chunks, so that a race has something to stop."""

    def __init__(self) -> None:
        super().__init__()
        ids = {name: [f"{name}/{place}" for place in range(CHUNKS)] for name in SLICES}
        chunks = {
            name: tuple(Chunk(id_, name, tuple(f"toy/{id_}/{item}" for item in range(ITEMS))) for id_ in listed)
            for name, listed in ids.items()
        }
        self.plan = Plan(chunks, {"toy": 1.0})


class UnequalPool(ToyPool):
    """Workers with unequal speeds, in virtual time. It dies before its outcome number `dies_at`."""

    def __init__(self, workers: int = 1, seed: int = 0, dies_at: float = math.inf, fails: float = math.inf) -> None:
        baselines = {recipe.key() for recipe in toy_baselines().values()}
        super().__init__(
            lambda job: "out of memory" if weights(job.recipe)[0] > fails and job.key not in baselines else None, _noisy
        )
        self._draw = np.random.default_rng(seed)
        self._seconds = self._draw.lognormal(0, 1, workers)
        self._dies_at = dies_at

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        loaded: list[str | None] = [None] * len(self._seconds)
        idle, events, now = list(range(len(loaded))), list[tuple[float, int, Job]](), 0.0
        while True:
            while idle and (job := jobs.next(loaded[idle[0]])) is not None:
                worker = idle.pop(0)
                loaded[worker] = job.key
                heapq.heappush(events, (now + float(self._seconds[worker] * self._draw.uniform(0.5, 1.5)), worker, job))
            if not events:
                assert not len(jobs)
                return
            now, worker, job = heapq.heappop(events)
            idle.insert(0, worker)
            if len(self.jobs) >= self._dies_at:
                raise Killed
            yield self.outcome(job)


def _noisy(job: Job) -> list[Any]:
    """Item scores whose noise is a function of the candidate and the item."""
    distance = sum((float(w) - best) ** 2 for w, best in zip(weights(job.recipe), BEST, strict=True))
    draw = np.random.default_rng([int(job.key[:8], 16), sum(map(ord, job.chunk))])
    return list(np.round(1.0 - distance + 0.2 * draw.standard_normal(ITEMS), 6))


class Run:
    """One asynchronous search over a ledger."""

    def __init__(self, path: Path, pool: UnequalPool | None = None) -> None:
        self.path, self.pool = path, pool or UnequalPool()
        self.asked: list[str] = []
        self.generations: list[list[float]] = []

    def work(self, done: int, total: int) -> None:
        assert 0 < done <= total

    def descent(self, step: int, loss: float) -> None:
        raise AssertionError("there is no descent")

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        assert number == len(self.generations)
        best = board.ranked()
        assert board.best() == (best[0] if best else None)
        assert board.failed == len(board.failures()) and board.stopped_count == len(board.stopped())
        self.generations.append(list(scores))

    def search(
        self,
        evaluations: int | None = 40,
        race: RaceConfig = RACE,
        optimizer: Any = None,
        deadline: Deadline | None = None,
        **limits: float | None,
    ) -> Leaderboard:
        known = ledger_header(LongScorer(), {"seed": 1, "scorer": {"tasks": ["toy"]}})
        ledger = Ledger(self.path, {**known, "models": {"base": "0"}, "versions": {"toy": "1"}})
        evaluator = Evaluator(LongScorer(), self.pool, ledger)
        budget = BudgetConfig(evaluations=evaluations, **cast(Any, limits))
        remaining = RemainingBudget(budget, evaluator, ledger, deadline=deadline)
        optimizer = optimizer or proposer("cma")
        try:
            board = search(
                evaluator, toy_space(), optimizer, toy_baselines(), remaining, [self], race, mode="asynchronous"
            )
        finally:
            ledger.close()
        assert len(self.pool.paid()) == len(set(self.pool.paid())), "nothing is paid twice"
        self.spent, self.evaluated = remaining.spent, evaluator.evaluated
        return board


def proposer(name: str) -> Optimizer:
    points = list(toy_space().seed_points().values())
    return create(name, cube(2), points, 1, {"population": 6}, asynchronous=True)


def described(board: Leaderboard) -> Any:
    optima = {label: point.tolist() for label, point in board.predicted_optima.items()}
    return [(c.label, c.key, score) for c, score in board.ranked()], list(board.candidates), optima


def learnt(path: Path) -> list[dict[str, Any]]:
    return [line for text in path.read_text().splitlines() if "learnt" in (line := json.loads(text))]


@pytest.mark.parametrize("workers", [1, 4, 16])
@pytest.mark.parametrize("name", ABLE)
def test_a_repeated_search_pays_nothing_and_ends_the_same(tmp_path: Path, name: str, workers: int) -> None:
    run = Run(tmp_path / "trials.jsonl", UnequalPool(workers))
    board = run.search(optimizer=proposer(name))
    before = run.path.read_bytes()
    again = Run(run.path, UnequalPool(1))
    assert described(again.search(optimizer=proposer(name))) == described(board)
    assert again.pool.jobs == [] and again.generations == run.generations and run.path.read_bytes() == before
    assert len(board.candidates) == 40 or name == "grid"
    assert len(learnt(run.path)) == len(board.candidates)
    assert again.evaluated == run.evaluated == {candidate.key for candidate in board.candidates.values()}


@pytest.mark.parametrize("name", ABLE)
def test_one_worker_killed_anywhere_ends_with_the_bytes_of_an_undisturbed_search(tmp_path: Path, name: str) -> None:
    whole = Run(tmp_path / "whole.jsonl")
    board = whole.search(24, optimizer=proposer(name))
    draw = np.random.default_rng(3)
    for kill in draw.integers(31, len(whole.pool.jobs), 4):
        path = tmp_path / f"{kill}.jsonl"
        with pytest.raises(Killed):
            Run(path, UnequalPool(dies_at=int(kill))).search(24, optimizer=proposer(name))
        rest = Run(path)
        assert described(rest.search(24, optimizer=proposer(name))) == described(board)
        assert path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("workers", [3, 16])
def test_many_workers_killed_again_and_again_pay_once_and_replay(tmp_path: Path, workers: int) -> None:
    path, paid, kills = tmp_path / "trials.jsonl", list[tuple[str, str]](), 0
    recorded: list[dict[str, Any]] = []
    for seed in range(100):
        run = Run(path, UnequalPool(workers, seed, dies_at=seed % 17))
        try:
            board = run.search()
        except Killed:
            kills += 1
            paid += run.pool.paid()
            assert learnt(path)[: len(recorded)] == recorded, "the order that was recorded is kept"
            recorded = learnt(path)
            continue
        paid += run.pool.paid()
        break
    assert kills > 5 and len(paid) == len(set(paid))
    again = Run(path)
    assert described(again.search()) == described(board) and again.pool.jobs == []


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_ledger_cut_at_any_line_is_continued(tmp_path: Path, cut: float) -> None:
    whole = Run(tmp_path / "trials.jsonl")
    board = whole.search(24)
    data = whole.path.read_bytes()
    whole.path.write_bytes(data[: int(cut * len(data))])
    assert described(Run(whole.path).search(24)) == described(board)
    assert whole.path.read_bytes() == data


def test_workers_never_wait_for_results(tmp_path: Path) -> None:
    class Watched(UnequalPool):
        def run(self, jobs: JobQueue) -> Iterator[Outcome]:
            for outcome in super().run(jobs):
                running = len(jobs._running)
                proposed = len({job.key for job in self.jobs}) - len(toy_baselines())
                if isinstance(jobs, DemandQueue) and proposed < 60 - SEEDS:
                    assert running == 8, "all workers have a job until the last candidate is proposed"
                yield outcome

    pool = Watched(8)
    Run(tmp_path / "trials.jsonl", pool).search(60)


def test_the_race_stops_candidates_and_the_best_are_scored_whole(tmp_path: Path) -> None:
    raced = Run(tmp_path / "raced.jsonl", UnequalPool(4))
    board = raced.search(80)
    whole = Run(tmp_path / "whole.jsonl", UnequalPool(4))
    whole.search(80, RaceConfig(enabled=False))
    assert raced.spent < 0.65 * whole.spent and whole.spent == (80 - SEEDS) * CHUNKS * ITEMS
    assert 0.4 < board.stopped_count / 80 < 0.95
    assert weights(board.ranked()[0][0].recipe) == pytest.approx(BEST, abs=0.12)
    estimates = [line["score"] for line in learnt(raced.path) if "score" in line]
    assert len(estimates) == board.stopped_count


def test_estimates_of_stopped_candidates_are_unbiased(tmp_path: Path) -> None:
    """Against the scores that the pool would have given on the whole slice."""
    run = Run(tmp_path / "trials.jsonl", UnequalPool(4))
    board = run.search(150)
    errors = []
    for line in learnt(run.path):
        if "score" in line:
            recipe = board.candidates[line["key"]].recipe
            answers = [_noisy(Job(line["key"], recipe, f"search/{place}")) for place in range(CHUNKS)]
            errors.append(line["score"] - float(np.mean(answers)))
    assert abs(np.mean(errors)) < 3 * np.std(errors) / math.sqrt(len(errors)) + 0.01
    assert np.std(errors) < 0.06


@pytest.mark.parametrize("name", ABLE)
def test_failures_are_learnt_as_the_worst(tmp_path: Path, name: str) -> None:
    board = Run(tmp_path / "trials.jsonl", UnequalPool(4, fails=0.7)).search(30, optimizer=proposer(name))
    failed = set(board.failures())
    assert board.failed == len(failed) > 0 and not failed & {c.label for c, _ in board.ranked()}


def test_the_same_recipe_in_flight_twice_is_paid_once(tmp_path: Path) -> None:
    class Stuck:
        """Proposes the same point for ever."""

        population = 4

        def __init__(self) -> None:
            self.told: list[int] = []

        def propose(self, surrogate: Surrogate | None = None) -> Vector:
            return np.array([0.9, 0.9])

        def learn(self, number: int, loss: float) -> None:
            self.told.append(number)

        def centre(self) -> None:
            return None

    for workers in (1, 4):
        stuck = Stuck()
        run = Run(tmp_path / f"{workers}.jsonl", UnequalPool(workers))
        run.search(12, optimizer=stuck)
        assert sorted(stuck.told) == list(range(1, 13))
    unending = Run(tmp_path / "items.jsonl")
    unending.search(None, items=10**6, optimizer=Stuck())
    assert len(learnt(unending.path)) == 21 * 4, "20 populations after the first without a new item end the search"


def test_a_space_of_few_points_is_searched_without_a_limit_on_candidates(tmp_path: Path) -> None:
    """Four workers and three points: most candidates wait for the result of an equal one."""

    class Few:
        population = 4

        def __init__(self) -> None:
            self.proposed, self.told = 0, list[int]()

        def propose(self, surrogate: Surrogate | None = None) -> Vector:
            self.proposed += 1
            assert self.proposed < 1000, "proposals do not end"
            return np.array([0.9, 0.1 + 0.2 * (self.proposed % 3)])

        def learn(self, number: int, loss: float) -> None:
            self.told.append(number)

        def centre(self) -> None:
            return None

    few, run = Few(), Run(tmp_path / "trials.jsonl", UnequalPool(4))
    run.search(None, items=10**6, optimizer=few)
    assert sorted(few.told) == list(range(1, few.proposed + 1))
    assert run.spent == 3 * CHUNKS * ITEMS
    again = Run(run.path)
    again.search(None, items=10**6, optimizer=Few())
    assert again.pool.jobs == [] and again.generations == run.generations


def test_a_budget_of_items_ends_the_search(tmp_path: Path) -> None:
    run = Run(tmp_path / "trials.jsonl", UnequalPool(4))
    run.search(None, items=1000)
    assert 1000 <= run.spent <= 1000 + 4 * CHUNKS * ITEMS


def test_the_end_of_the_time_is_recorded_and_a_repeated_search_ends_there(tmp_path: Path) -> None:
    class Clock(Deadline):
        """Time runs out at the 60th look."""

        looks = 0

        def left(self) -> float:
            self.looks += 1
            return 1e6 if self.looks < 60 else -1.0

    run = Run(tmp_path / "trials.jsonl", UnequalPool(4))
    board = run.search(None, hours=100.0, deadline=Clock(100.0))
    before = run.path.read_bytes()
    assert before.count(b'{"stop":') == 1 and 10 < len(board.candidates) < 80
    again = Run(run.path)
    assert described(again.search(None, hours=100.0)) == described(board) and again.pool.jobs == []
    assert run.path.read_bytes() == before


def test_time_is_kept_for_all_candidates_in_work(tmp_path: Path) -> None:
    """A second an item, and slices of 48 items; each question is about another candidate, as a refusal is recorded."""

    class Fixed(Deadline):
        def left(self) -> float:
            return 100.0

    ledger = Ledger(tmp_path / "trials.jsonl", ledger_header(LongScorer(), {}))
    evaluator = Evaluator(LongScorer(), UnequalPool(), ledger)
    evaluator.scored_items, evaluator.scoring_seconds = 10, 10.0
    remaining = RemainingBudget(BudgetConfig(hours=1.0), evaluator, ledger, deadline=Fixed(1.0))
    candidate = [Candidate.of("1", toy_baselines()["base"])]
    assert remaining.begins_in_time(1, candidate, in_work=2) and not remaining.begins_in_time(2, candidate, in_work=3)
    remaining.record(9, {"a": 30, "b": 20})  # of nine candidates, two have a result: 25 items each
    assert remaining.begins_in_time(3, candidate, in_work=4) and not remaining.begins_in_time(4, candidate, in_work=5)
    ledger.close()


def test_a_race_forgets_the_blocks_that_are_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl", {})
    ledger.close()
    evaluator = Evaluator(LongScorer(), UnequalPool(), ledger)
    race = OpenRace(evaluator, RACE, ItemOrder.as_drawn(evaluator.plan, rotating=True))
    candidate = Candidate.of("1", toy_baselines()["base"])
    for number in range(1, 14):  # one at a time, four to a block
        race.leave(race.enter(number, candidate, 2), 0.5, True, 2)
        assert len(race._peers) == len(race._inside) == 1
    waiting = [race.enter(number, candidate, 2) for number in range(14, 19)]
    assert len(race._peers) == 2
    race.withdraw(waiting.pop())
    for entrant in waiting:
        race.leave(entrant, math.nan, False, 2)
    assert len(race._peers) == len(race._inside) == 1 and not any(race._inside.values())


def test_a_larger_budget_continues(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    first = Run(path)
    first.search(20)
    board = Run(path).search(40)
    assert described(board) == described(Run(tmp_path / "whole.jsonl").search(40))
    smaller = Run(path)
    smaller.search(10)
    assert smaller.pool.jobs == [] and sum(map(len, smaller.generations[1:])) == 10


def test_an_optimizer_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    Run(path).search(12)
    with pytest.raises(RunError, match=r"candidate \d+ is another one than in the ledger"):
        Run(path).search(12, optimizer=proposer("random"))


def test_optimizers_that_wait_for_a_generation_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^search\.mode=asynchronous: optimizer=slope .*choose one of cma, grid"):
        check("slope", {}, asynchronous=True)
    check("cma", {"start": "slope"}, asynchronous=True)
    for name in ABLE:
        check(name, {}, asynchronous=True)


@pytest.mark.parametrize("restarts", ["none", "bipop"])
def test_cma_learns_from_late_results(restarts: str) -> None:
    """With results that come 12 points late and in another order, it still finds the optimum."""
    made = create("cma", cube(4), [], 1, {"restarts": restarts, "population": 8}, asynchronous=True)
    optimizer, draw = cast(Any, made), np.random.default_rng(1)
    outstanding: dict[int, float] = {}
    best = math.inf
    for number in range(1, 400):
        point = optimizer.propose()
        assert (point >= 0).all() and (point <= 1).all()
        outstanding[number] = float(((point - 0.3) ** 2).sum())
        best = min(best, outstanding[number])
        if len(outstanding) > 12:
            learned = int(draw.choice(list(outstanding)))
            optimizer.learn(learned, outstanding.pop(learned))
    for number, loss in outstanding.items():
        optimizer.learn(number, loss)
    assert best < 1e-3
    assert float(((optimizer.centre() - 0.3) ** 2).sum()) < 1e-2
