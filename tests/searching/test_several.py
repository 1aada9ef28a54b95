"""Several objectives and floors end to end, on a toy with two tasks that want different weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge import optimizers
from evomerge.errors import ConfigError
from evomerge.finalise.config import FinaliseConfig
from evomerge.finalise.finaliser import Finaliser
from evomerge.finalise.findings import Findings
from evomerge.ledger.ledger import Ledger
from evomerge.scoring.protocol import SLICES, Chunk, Plan, task_of
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.leaderboard import Leaderboard
from evomerge.searching.loop import ledger_header, search
from evomerge.searching.objective import Objective
from evomerge.searching.pareto import dominates, normalised_hypervolume, pareto_front
from evomerge.workers.jobs import Job
from tests.toys import EXPERTS, ToyPool, ToyScorer, cube, toy_baselines, toy_optimizer, toy_space, weights

ITEMS = 8  # of each task in each slice


class TwoTasks(ToyScorer):
    """One chunk a slice: ITEMS items of `a`, then as many of `b`."""

    def __init__(self) -> None:
        def ids(slice_name: str, task: str) -> list[str]:
            return [f"{task}/{slice_name}/{i}" for i in range(ITEMS)]

        self.plan = Plan(
            {name: (Chunk(f"{name}/0", name, (*ids(name, "a"), *ids(name, "b"))),) for name in SLICES},
            {"a": 1.0, "b": 1.0},
        )
        self.fingerprint = "two"


def answers(job: Job) -> list[Any]:
    """`a` is best at the left expert alone, `b` at the right one, each with a little room beyond."""
    left, right = (float(w) for w in weights(job.recipe))
    a, b = (1.0 - (mine - 1.0) ** 2 - 0.5 * other**2 for mine, other in ((left, right), (right, left)))
    return [a + 0.001 * i for i in range(ITEMS)] + [b + 0.001 * i for i in range(ITEMS)]


def ended(
    path: Path, optimizer: str = "random", count: int = 48, **settings: Any
) -> tuple[Evaluator, Leaderboard, Findings]:
    scorer, rows, space = TwoTasks(), toy_baselines(), toy_space()
    objective = Objective(scorer.plan.weights, tuple(EXPERTS), tuple(rows), **settings)
    ledger = Ledger(path, ledger_header(scorer, {}))
    evaluator = Evaluator(scorer, ToyPool(answers=answers), ledger, objective=objective)
    try:
        board = search(
            evaluator,
            space,
            toy_optimizer(optimizer),
            rows,
            RemainingBudget(BudgetConfig(evaluations=count), evaluator, ledger),
        )
        return evaluator, board, Finaliser(evaluator, board, rows, FinaliseConfig(top=6), seed=1).run(space, {})
    finally:
        ledger.close()


def test_a_front_is_chosen_on_select_and_every_member_has_a_row(tmp_path: Path) -> None:
    evaluator, board, result = ended(tmp_path / "trials.jsonl", front=True)
    assert result.front is not None and 2 <= len(result.front.members) <= 6 + len(toy_baselines())
    points = [tuple(evaluator.fitness(c.key, "select").values.values()) for c in result.front.members]
    everybody = [tuple(evaluator.fitness(key, "search").values.values()) for key in board.candidates]
    assert pareto_front(points) == list(range(len(points)))
    assert not any(dominates(other, point) for other in everybody for point in points), "the slices are alike here"
    assert result.winner.key in {c.key for c in result.front.members}
    assert [row.key for row in result.front.rows] == [c.key for c in result.front.members]
    for row in result.front.rows:
        assert set(row.tasks) == {"a", "b"}
    covered = [tuple(row.tasks.values()) for row in result.front.rows]
    standing = [tuple(row.tasks.values()) for row in result.rows[:-1]]
    assert result.front.hypervolume == pytest.approx(normalised_hypervolume(covered, [*covered, *standing]))
    assert result.front.hypervolume > normalised_hypervolume(standing, [*covered, *standing])
    assert json.loads(json.dumps(result.as_dict()))["front"]["members"][0]["role"] == "member"


def test_the_winner_of_a_front_is_no_end_of_it(tmp_path: Path) -> None:
    _, _, result = ended(tmp_path / "trials.jsonl", front=True)
    assert result.front is not None
    worst = [min(row.tasks.values()) for row in result.front.rows]
    assert min(result.rows[-1].tasks.values()) >= sorted(worst)[-2], "the balanced one, or the one next to it"


def test_a_floor_is_kept_where_the_mean_alone_breaks_it(tmp_path: Path) -> None:
    best = weights(toy_baselines()["left"])
    _, _, free = ended(tmp_path / "free.jsonl", "cma", 240, maximise=["b"])
    _, _, kept = ended(tmp_path / "kept.jsonl", "cma", 240, maximise=["b"], keep={"a": "left - 0.2"})
    floor = next(row.tasks["a"] for row in kept.rows if row.label == "left") - 0.2
    assert kept.floors == pytest.approx({"a": floor}) and free.floors == {}
    assert free.rows[-1].tasks["a"] < floor <= kept.rows[-1].tasks["a"] + 1e-9
    assert free.rows[-1].tasks["b"] > kept.rows[-1].tasks["b"]
    # The optimum on the floor, by a fine grid over the square of weights.
    grid = [(x / 150, y / 150) for x in range(226) for y in range(226)]
    a, b = ([1 - (m - 1) ** 2 - 0.5 * o**2 for m, o in pairs] for pairs in (grid, [(y, x) for x, y in grid]))
    level = 1 - (best[0] - 1) ** 2 - 0.5 * best[1] ** 2 - 0.2
    most = max(value for own, value in zip(a, b, strict=True) if own >= level)
    assert kept.rows[-1].tasks["b"] == pytest.approx(most + 0.0035, abs=0.02)


def test_normalised_scores_stand_in_the_table_and_the_claim(tmp_path: Path) -> None:
    evaluator, _, result = ended(tmp_path / "trials.jsonl", "cma", 60, normalise=True)
    rows = {row.label: row for row in result.rows}
    assert rows["base"].scores["holdout"] == 0.0
    assert rows["winner"].scores["holdout"] > rows["left"].scores["holdout"]
    for found in result.comparisons:
        gained = rows["winner"].scores["holdout"] - rows[found.label].scores["holdout"]
        assert found.interval.difference == pytest.approx(gained)
    assert {task_of(item) for item in evaluator.objective_items(result.winner.key, "holdout")} == {"a", "b"}


@pytest.mark.parametrize(
    "settings", [{"front": True}, {"normalise": True}, {"keep": {"a": "best_expert - 0.3"}}], ids=str
)
def test_a_repeated_end_pays_nothing_and_says_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    _, _, first = ended(tmp_path / "trials.jsonl", **settings)
    before = (tmp_path / "trials.jsonl").read_bytes()
    _, _, again = ended(tmp_path / "trials.jsonl", **settings)
    assert again.as_dict() == first.as_dict() and (tmp_path / "trials.jsonl").read_bytes() == before


def test_optimizers_of_one_objective_refuse_a_front() -> None:
    with pytest.raises(ConfigError, match=r"objective\.front: optimizer=cma takes one objective; choose .*random"):
        optimizers.create("cma", cube(2), [], 1, {}, objectives=2)


@pytest.mark.parametrize("name", [name for name in optimizers.names() if optimizers.supports_several_objectives(name)])
def test_the_others_take_tuples(name: str) -> None:
    optimizer = optimizers.create(name, cube(2), [], 1, {}, objectives=2)
    for _ in range(3):
        vectors = optimizer.ask()
        optimizer.tell(vectors, [(float(v[0]), float(v[1])) for v in vectors])
