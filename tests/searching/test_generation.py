"""A raced generation: the leader complete, the rest estimated, the same at any speed of workers and after a kill."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.ledger.ledger import Ledger
from evomerge.ledger.reading import read_trials
from evomerge.optimizers import Surrogate, Vector
from evomerge.scoring.protocol import SLICES, Chunk, Plan, task_of
from evomerge.scoring.tasks.slices import make_chunks
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.generation import GenerationResult, item_order, run_generation
from evomerge.searching.leaderboard import Leaderboard
from evomerge.searching.loop import ledger_header, search
from evomerge.searching.objective import Objective
from evomerge.searching.race import RaceConfig
from evomerge.searching.stages import Candidate
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.pools import JobQueue
from tests.toys import BEST, ToyPool, ToyScorer, toy_baselines, toy_optimizer, toy_space, weights

CHUNKS, ITEMS = 12, 8
RULE = RaceConfig(margin=0.5, least=16, most=None)


class LongScorer(ToyScorer):
    """Twelve chunks a slice, each with four items of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        chunks = {
            name: tuple(
                Chunk(f"{name}/{i}", name, tuple(f"{'ab'[j % 2]}/{name}/{ITEMS * i + j}" for j in range(ITEMS)))
                for i in range(CHUNKS)
            )
            for name in SLICES
        }
        self.plan = Plan(chunks, {"a": 1.0, "b": 1.0})


class Shuffled(ToyPool):
    """Answers are right or wrong, by the item's difficulty and some luck; workers end their jobs in any order."""

    def __init__(self, seed: int = 0, dies_after: int = 10**9, fails: Any = lambda job: None, workers: int = 1) -> None:
        super().__init__(fails, self.right)
        self._draw, self._left, self._workers = random.Random(seed), dies_after, workers

    def right(self, job: Job) -> list[Any]:
        distance = sum((float(w) - best) ** 2 for w, best in zip(weights(job.recipe), BEST, strict=True))
        luck = np.random.default_rng([*job.key.encode()[:8], int(job.chunk.rpartition("/")[2])])
        return [float(u < 0.9 - 0.6 * min(1.0, distance)) for u in luck.random(ITEMS)]

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        busy: dict[int, Job] = {}
        holding: list[str | None] = [None] * self._workers
        while True:
            for worker in set(range(self._workers)) - set(busy):
                if job := jobs.next(holding[worker]):
                    busy[worker], holding[worker] = job, job.key
            if not busy:
                return
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
            yield self.outcome(busy.pop(self._draw.choice(sorted(busy))))


def evaluator(path: Path, pool: ToyPool, **objective: Any) -> tuple[Evaluator, Ledger]:
    scorer = LongScorer()
    ledger = Ledger(path, ledger_header(scorer, {}))
    return Evaluator(
        scorer, pool, ledger, objective=Objective(scorer.plan.weights, ("left", "right"), **objective)
    ), ledger


def candidates(count: int = 10, seed: int = 0) -> list[Candidate]:
    points = np.random.default_rng(seed).random((count, 2))
    return [Candidate.of(f"1/{i}", toy_space().decode(point)) for i, point in enumerate(points)]


def raced(path: Path, pool: ToyPool, rule: RaceConfig = RULE, **objective: Any) -> tuple[GenerationResult, Evaluator]:
    made, ledger = evaluator(path, pool, **objective)
    try:
        return run_generation(made, candidates(), rule, item_order(made, rule), 1), made
    finally:
        ledger.close()


def test_the_leader_is_complete_and_losers_are_not(tmp_path: Path) -> None:
    scored, made = raced(tmp_path / "a", Shuffled())
    best = max(scored.fitness, key=lambda key: scored.fitness[key].score)
    assert best in scored.complete and made.score(best, "search") == scored.fitness[best].score
    assert len(scored.complete) < 10 and sum(scored.items_seen.values()) < 0.7 * 10 * CHUNKS * ITEMS
    assert all(math.isfinite(fitness.score) for fitness in scored.fitness.values())
    assert {key for key, count in scored.items_seen.items() if count == CHUNKS * ITEMS} == scored.complete


def test_estimates_order_candidates_about_as_a_full_scoring_does(tmp_path: Path) -> None:
    fast, _ = raced(tmp_path / "a", Shuffled())
    full, _ = raced(tmp_path / "b", Shuffled(), RaceConfig(enabled=False))
    keys = list(full.fitness)
    ranks = [np.argsort(np.argsort([scored.fitness[key].score for key in keys])) for scored in (fast, full)]
    assert np.corrcoef(*ranks)[0, 1] > 0.8
    assert len(full.complete) == 10 and sum(full.items_seen.values()) == 10 * CHUNKS * ITEMS


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("seed", range(1, 4))
def test_workers_and_the_order_in_which_jobs_end_change_nothing(tmp_path: Path, seed: int, workers: int) -> None:
    alone = raced(tmp_path / "a", Shuffled(0))[0]
    assert raced(tmp_path / "b", Shuffled(seed, workers=workers))[0] == alone


@pytest.mark.parametrize("seed", range(6))
def test_a_failure_met_ahead_counts_only_where_the_race_gets_to_it(tmp_path: Path, seed: int) -> None:
    """Six workers meet the failures of late chunks early; one worker may never meet them."""

    def fails(job: Job) -> str | None:
        return "late" if int(job.chunk.rpartition("/")[2]) >= 3 and int(job.key[0], 16) % 2 == seed % 2 else None

    alone = raced(tmp_path / "a", Shuffled(0, fails=fails))[0]
    pool = Shuffled(seed, fails=fails, workers=6)
    assert raced(tmp_path / "b", pool)[0] == alone
    assert raced(tmp_path / "b", Shuffled(0, fails=fails))[0] == alone, "nor does what was met ahead change a resume"


def test_no_worker_idles_while_anyone_runs(tmp_path: Path) -> None:
    class Counting(Shuffled):
        def run(self, jobs: JobQueue) -> Iterator[Outcome]:
            for outcome in super().run(jobs):
                yield outcome
                ended.append(len(jobs))

    ended: list[int] = []
    pool = Counting(workers=4)
    scored, _ = raced(tmp_path / "a", pool)
    needed = sum(scored.items_seen.values()) // ITEMS
    ahead = len(pool.jobs) - needed
    assert 0 < ahead < needed / 2, "some chunks are scored ahead, and most of the work is needed"
    one = Shuffled()
    raced(tmp_path / "b", one)
    assert len(one.jobs) == needed, "a single worker never scores what it does not need"


@pytest.mark.parametrize("step", [1, -1])
def test_of_equal_candidates_the_first_ones_asked_are_the_best(tmp_path: Path, step: int) -> None:
    """Keys hash the paths of models: were they to decide, another folder would be another search."""
    made, ledger = evaluator(tmp_path / "a", ToyPool(answers=lambda job: [1.0] * ITEMS))
    asked = candidates()[::step]
    rule = RaceConfig(least=16, most=16)
    scored = run_generation(made, asked, rule, item_order(made, rule), 3)
    ledger.close()
    assert scored.complete == {asked[0].key}
    worse = sorted(scored.fitness, key=lambda key: -scored.fitness[key].score)[len(asked) // 2 :]
    assert worse == [candidate.key for candidate in asked[len(asked) // 2 :]]


@pytest.mark.parametrize("paid", [1, 13, 25, 31])
def test_after_a_kill_the_race_ends_as_if_undisturbed(tmp_path: Path, paid: int) -> None:
    whole, _ = raced(tmp_path / "a", Shuffled())
    with pytest.raises(KeyboardInterrupt):
        raced(tmp_path / "b", Shuffled(dies_after=paid))
    pool = Shuffled(seed=9)
    assert raced(tmp_path / "b", pool)[0] == whole
    assert paid + len(pool.jobs) == sum(whole.items_seen.values()) // ITEMS


def test_after_the_most_items_only_the_leader_goes_on(tmp_path: Path) -> None:
    scored, _ = raced(tmp_path / "a", Shuffled(), RaceConfig(margin=3.0, least=16, most=32))
    assert sorted(scored.items_seen.values()) == [32] * 9 + [CHUNKS * ITEMS]
    best = max(scored.fitness, key=lambda key: scored.fitness[key].score)
    assert scored.fitness[best].score >= max(scored.fitness[key].score for key in scored.complete)


class SmallTask(ToyScorer):
    """A hundred items of a task with weight 1, and three of a task with weight 10."""

    def __init__(self) -> None:
        super().__init__()
        tasks = {"large": 100, "small": 3}
        self.plan = Plan(
            {
                name: make_chunks(name, {t: [f"{t}/{name}/{i}" for i in range(n)] for t, n in tasks.items()}, 8)
                for name in SLICES
            },
            {"large": 1.0, "small": 10.0},
        )


def test_a_small_task_of_great_weight_is_not_forgotten(tmp_path: Path) -> None:
    """Three candidates are good at the small task, three at the large one, which is nearly all that the chunks hold."""
    scorer, asked = SmallTask(), candidates(6)
    good = {candidate.key for candidate in asked[3:]}
    chunks = {chunk.id: chunk for chunk in scorer.plan.chunks["search"]}

    def answers(job: Job) -> list[Any]:
        draw = np.random.default_rng([*job.key.encode()[:8], int(job.chunk.rpartition("/")[2])])
        chance = {"small": float(job.key in good), "large": 0.5 if job.key in good else 0.9}
        return [float(draw.random() < chance[task_of(item)]) for item in chunks[job.chunk].items]

    for number in range(len(chunks)):
        ledger = Ledger(tmp_path / str(number), ledger_header(scorer, {}))
        made = Evaluator(scorer, ToyPool(answers=answers), ledger)
        scored = run_generation(made, asked, RaceConfig(), item_order(made, RaceConfig()), number)
        ledger.close()
        ranked = sorted(scored.fitness, key=lambda key: -scored.fitness[key].score)
        assert set(ranked[:3]) == good and scored.complete <= good
        assert len(scored.complete) == 1 and sum(scored.items_seen.values()) < 0.6 * 6 * 103


def test_a_failed_candidate_leaves_the_race_and_has_no_worth(tmp_path: Path) -> None:
    bad = candidates()[3].key
    scored, _ = raced(tmp_path / "a", Shuffled(fails=lambda job: "no" if job.key == bad else None))
    assert math.isnan(scored.fitness[bad].score)
    assert sum(math.isnan(fitness.score) for fitness in scored.fitness.values()) == 1


def test_a_generation_of_failures_is_no_error(tmp_path: Path) -> None:
    scored, _ = raced(tmp_path / "a", Shuffled(fails=lambda job: "no"))
    assert all(math.isnan(fitness.score) for fitness in scored.fitness.values())


@pytest.mark.parametrize("objective", [{"front": True}, {"keep": {"a": 0.1}}])
def test_what_is_no_single_number_is_not_raced(tmp_path: Path, objective: dict[str, Any]) -> None:
    scored, _ = raced(tmp_path / "a", Shuffled(), **objective)
    assert len(scored.complete) == 10


def searched(path: Path, pool: ToyPool, budget: BudgetConfig, rule: RaceConfig = RULE) -> Leaderboard:
    made, ledger = evaluator(path, pool)
    try:
        remaining = RemainingBudget(budget, made, ledger, reserve=100)
        optimizer = toy_optimizer(population=8)
        return search(made, toy_space(), optimizer, toy_baselines(), remaining, race=rule)
    finally:
        ledger.close()


def test_a_raced_search_can_be_killed_and_repeats_for_nothing(tmp_path: Path) -> None:
    budget = BudgetConfig(evaluations=40)
    whole = searched(tmp_path / "a", Shuffled(), budget)
    for paid in (70, 30, 55):
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / "b", Shuffled(seed=paid, dies_after=paid), budget)
    assert searched(tmp_path / "b", Shuffled(seed=5), budget).ranked() == whole.ranked()
    again = Shuffled()
    assert searched(tmp_path / "a", again, budget).ranked() == whole.ranked() and not again.jobs


class Same:
    """Asks the same ten points in every generation, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[list[float]] = []

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        return list(np.random.default_rng(0).random((10, 2)))

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        self.told.append(list(losses))

    def centre(self) -> None:
        return None


@pytest.mark.parametrize("workers", [1, 3])
def test_a_recipe_asked_again_is_told_the_same_when_the_search_is_repeated(tmp_path: Path, workers: int) -> None:
    """Later races let stopped recipes see more, and some of these then fail: that must not rewrite the first races."""

    def fails(job: Job) -> str | None:
        return "late" if job.chunk == "search/0" and int(job.key[0], 16) % 3 == 0 and job.key not in standing else None

    standing = {recipe.key() for recipe in toy_baselines().values()}
    runs = []
    for seed in range(2):
        made, ledger = evaluator(tmp_path / "a", Shuffled(seed, fails=fails, workers=workers))
        budget = RemainingBudget(BudgetConfig(evaluations=40), made, ledger)
        same = Same()
        board = search(made, toy_space(), same, toy_baselines(), budget, race=RULE)
        runs.append((same.told, board.ranked(), board.failures(), ledger.races))
        ledger.close()
    told, _, failures, _ = runs[0]
    assert runs[0] == runs[1]
    assert failures and len({tuple(losses) for losses in told}) == 4, "each generation begins with another chunk"
    alone, ledger = evaluator(tmp_path / "b", Shuffled(fails=fails))
    search(
        alone,
        toy_space(),
        same := Same(),
        toy_baselines(),
        RemainingBudget(BudgetConfig(evaluations=40), alone, ledger),
        race=RULE,
    )
    ledger.close()
    assert same.told == told


def test_where_every_survivor_fails_the_stopped_ones_keep_their_estimates(tmp_path: Path) -> None:
    clean, _ = raced(tmp_path / "a", Shuffled())
    doomed = {key for key in clean.fitness if clean.items_seen[key] == CHUNKS * ITEMS}
    scored, _ = raced(tmp_path / "b", Shuffled(fails=lambda job: "end" if job.chunk == "search/0" else None))
    survivors = [key for key, fitness in scored.fitness.items() if not math.isnan(fitness.score)]
    assert doomed and survivors and not set(survivors) & doomed
    assert len(set(scored.fitness[key].score for key in survivors)) > 1


def test_the_ledger_names_whoever_was_stopped(tmp_path: Path) -> None:
    made, ledger = evaluator(tmp_path / "a", Shuffled())
    scored = run_generation(made, candidates(), RULE, item_order(made, RULE), 1)
    (race,) = ledger.races
    ledger.close()
    assert race["generation"] == 1 and race["first"] == "search/1"
    assert {key: count * ITEMS for key, count in race["stopped"].items()} == {
        key: scored.items_seen[key] for key in set(scored.fitness) - scored.complete
    }
    again, reopened = evaluator(tmp_path / "a", Shuffled())
    run_generation(again, candidates(), RULE, item_order(again, RULE), 1)
    assert reopened.races == [race], "noted once"
    reopened.close()


def test_whoever_was_stopped_has_no_rank_and_is_no_failure(tmp_path: Path) -> None:
    board = searched(tmp_path / "a", Shuffled(), BudgetConfig(evaluations=40))
    ranked = {candidate.key for candidate, _ in board.ranked()}
    assert len(ranked) < len(board.candidates) and not board.failures()


def test_saved_items_buy_more_generations(tmp_path: Path) -> None:
    budget = BudgetConfig(evaluations=1000, items=20 * CHUNKS * ITEMS)
    plain = searched(tmp_path / "a", Shuffled(), budget, RaceConfig(enabled=False))
    fast = searched(tmp_path / "b", Shuffled(), budget)
    assert 20 <= len(plain.candidates) - len({r.key() for r in toy_baselines().values()}) <= 28
    assert len(fast.candidates) > 1.4 * len(plain.candidates)


def test_starting_the_workers_is_no_pace(tmp_path: Path) -> None:
    class Late(Shuffled):
        def run(self, jobs: JobQueue) -> Iterator[Outcome]:
            clock[0] += 1000.0
            yield from super().run(jobs)

        def outcome(self, job: Job) -> Outcome:
            clock[0] += 2.0
            return replace(super().outcome(job), seconds=2.0)

    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: clock[0])
        _, made = raced(tmp_path / "a", Late())
    assert made.scoring_seconds == pytest.approx(2.0 * made.scored_items / ITEMS)


@pytest.mark.slow
def test_time_ends_a_search_once_and_for_all(tmp_path: Path) -> None:
    """The hours of a budget end it at a generation that is noted: a repeated command ends there too."""

    class Slow(Shuffled):
        def outcome(self, job: Job) -> Outcome:
            clock[0] += 10.0
            return replace(super().outcome(job), seconds=10.0)

    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: clock[0])
        budget = BudgetConfig(evaluations=1000, hours=1.5)
        first = searched(tmp_path / "a", Slow(), budget)
        assert 8 < len(first.candidates) < 150
        assert clock[0] <= 1.5 * 3600  # with room for what comes after
        pool = Slow(seed=3)
        assert searched(tmp_path / "a", pool, budget).ranked() == first.ranked() and not pool.jobs
        more = searched(tmp_path / "a", Slow(), BudgetConfig(evaluations=1000, hours=3.0))
        assert len(more.candidates) > len(first.candidates)


INFORMATIVE = replace(RULE, items="informative")


def test_a_slice_dealt_anew_costs_no_baseline_twice_and_is_dealt_once(tmp_path: Path) -> None:
    budget, pool = BudgetConfig(evaluations=40), Shuffled()
    first = searched(tmp_path / "a", pool, budget, INFORMATIVE)
    standing = {recipe.key() for recipe in toy_baselines().values()}
    assert {job.chunk for job in pool.jobs if job.key in standing} == {f"search/{i}" for i in range(CHUNKS)}
    chunks_by_level = {f"search/informative/{i}" for i in range(CHUNKS)}
    assert (
        pool.known == chunks_by_level and {job.chunk for job in pool.jobs if job.key not in standing} <= chunks_by_level
    )
    again = Shuffled(seed=4)
    assert searched(tmp_path / "a", again, budget, INFORMATIVE).ranked() == first.ranked() and not again.jobs
    ledger = Ledger(tmp_path / "a", ledger_header(LongScorer(), {}))
    ledger.close()
    assert (
        ledger.rechunking
        and {item for items in ledger.rechunking.chunks.values() for item in items} == ledger.rechunking.levels.keys()
    )
    assert sum(trial.items for trial in ledger.trials.values()) == ITEMS * len(pool.jobs)
    assert (tmp_path / "a").read_text().count('"deal"') == 1


@pytest.mark.parametrize("paid", [20, 75, 110])
def test_a_search_dealt_anew_can_be_killed(tmp_path: Path, paid: int) -> None:
    budget = BudgetConfig(evaluations=40)
    whole = searched(tmp_path / "a", Shuffled(), budget, INFORMATIVE)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "b", Shuffled(seed=paid, dies_after=paid), budget, INFORMATIVE)
    assert searched(tmp_path / "b", Shuffled(seed=5), budget, INFORMATIVE).ranked() == whole.ranked()


def test_a_baseline_that_fails_is_no_part_of_the_deal_and_still_a_failure(tmp_path: Path) -> None:
    bad = toy_baselines()["left"].key()
    pool = Shuffled(fails=lambda job: "no" if job.key == bad else None)
    made, ledger = evaluator(tmp_path / "a", pool)
    budget = RemainingBudget(BudgetConfig(evaluations=16), made, ledger)
    search(made, toy_space(), toy_optimizer(), toy_baselines(), budget, race=INFORMATIVE)
    ledger.close()
    assert made.error(bad, "search") == "no" and len([job for job in pool.jobs if job.key == bad]) == 1


def test_a_fixed_order_begins_every_generation_alike(tmp_path: Path) -> None:
    for items, firsts in (("fixed", {"search/0"}), ("rotating", {f"search/{i}" for i in range(1, 6)})):
        made, ledger = evaluator(tmp_path / items, Shuffled())
        budget, rule = RemainingBudget(BudgetConfig(evaluations=32), made, ledger), replace(RULE, items=items)
        search(made, toy_space(), toy_optimizer(population=8), toy_baselines(), budget, race=rule)
        ledger.close()
        assert len(ledger.races) > 1 and {race["first"] for race in ledger.races} == firsts


def test_a_wide_race_is_as_wide_when_it_is_killed_and_resumed_with_a_larger_budget(tmp_path: Path) -> None:
    rule = RaceConfig(margin=0.5, least=16, most=16)
    small, large = BudgetConfig(evaluations=None, items=600), BudgetConfig(evaluations=None, items=1200)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "a", Shuffled(dies_after=90), small, rule)
    searched(tmp_path / "a", Shuffled(seed=2), small, rule)
    resumed = searched(tmp_path / "a", Shuffled(seed=3), large, rule)
    _, lines = read_trials(tmp_path / "a")
    assert [line["most"] for line in lines if "most" in line] == [600 // 16]
    assert len(resumed.candidates) > 20
    again = Shuffled()
    assert searched(tmp_path / "a", again, large, rule).ranked() == resumed.ranked() and not again.jobs


def test_a_candidate_that_becomes_a_baseline_is_not_paid_for_again(tmp_path: Path) -> None:
    """Rows may be added when a search is resumed: one that has seen the whole slice, in other chunks, is known."""
    budget, path = BudgetConfig(evaluations=40), tmp_path / "a"
    first = searched(path, Shuffled(), budget, INFORMATIVE)
    best = next(candidate for candidate, _ in first.ranked() if candidate.vector is not None)
    made, ledger = evaluator(path, pool := Shuffled(seed=2))
    rows = {**toy_baselines(), "mine": best.recipe}
    remaining = RemainingBudget(budget, made, ledger, reserve=100)
    again = search(made, toy_space(), toy_optimizer(population=8), rows, remaining, race=INFORMATIVE)
    ledger.close()
    assert not pool.jobs and dict(again.fitness) == dict(first.fitness)


@pytest.mark.parametrize("objective", [{"maximise": ["b"]}, {"normalise": True}])
def test_a_slice_dealt_anew_serves_other_objectives(tmp_path: Path, objective: dict[str, Any]) -> None:
    made, ledger = evaluator(tmp_path / "a", Shuffled(), **objective)
    rule = replace(INFORMATIVE, margin=0.2)
    budget = RemainingBudget(BudgetConfig(evaluations=40), made, ledger)
    board = search(made, toy_space(), toy_optimizer(population=8), toy_baselines(), budget, race=rule)
    assert board.stopped() and all(made.score(c.key, "search") == score for c, score in board.ranked())
    ledger.close()
