"""Selection of the winner and its comparison on holdout, on the toy problem."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.finalise.config import FinaliseConfig
from evomerge.finalise.finaliser import Finaliser
from evomerge.finalise.findings import Findings, count_holdout_uses
from evomerge.finalise.statistics import ConfidenceInterval
from evomerge.finalise.twins import describe_twins, find_suspects, same_weights
from evomerge.recipes import Recipe, TensorFile
from evomerge.scoring.protocol import SLICES, Chunk
from evomerge.searching import Candidate
from evomerge.searching.leaderboard import Leaderboard
from evomerge.workers.jobs import Job
from tests.toys import BEST, EXPERTS, Run, ToyPool, ToyScorer, toy_baselines, toy_optimizer, toy_space, weights


def finished(
    path: Path, pool: ToyPool | None = None, top: int = 3, **settings: Any
) -> tuple[Run, Leaderboard, Findings]:
    """A search of 24 evaluations and its final, on one ledger."""
    run = Run(path, pool)
    board = run.search(24, close=False)
    try:
        final = Finaliser(run.evaluator, board, toy_baselines(), FinaliseConfig(top=top, **settings), seed=1)
        return run, board, final.run(toy_space(), {ref: label for label, ref in EXPERTS.items()})
    finally:
        run.ledger.close()


def with_trial(path: Path, calibrate: Callable[[Recipe], Recipe | None], pool: ToyPool) -> tuple[Run, Findings]:
    """The same with a trial of calibrated routers."""
    run = Run(path, pool)
    board = run.search(24, close=False)
    try:
        final = Finaliser(run.evaluator, board, toy_baselines(), FinaliseConfig(top=3), seed=1, calibrate=calibrate)
        return run, final.run(toy_space(), {ref: label for label, ref in EXPERTS.items()})
    finally:
        run.ledger.close()


def slices_of(run: Run, key: str) -> set[str]:
    return {job.chunk.partition("/")[0] for job in run.pool.jobs if job.key == key}


def failing(slice_name: str, chosen: Callable[[Job], bool]) -> ToyPool:
    return ToyPool(fails=lambda job: "died" if job.chunk.startswith(slice_name) and chosen(job) else None)


def test_top_and_baselines_go_to_select_winner_and_baselines_to_holdout(tmp_path: Path) -> None:
    run, board, result = finished(tmp_path / "trials.jsonl")
    baseline_keys = {recipe.key() for recipe in toy_baselines().values()}
    asked = [candidate for candidate, _ in board.ranked() if candidate.label not in board.predicted_optima]
    top = {candidate.key for candidate in asked[:3]}
    for candidate in asked:
        expected = {"search"}
        expected |= {"select"} if candidate.key in baseline_keys | top else set()
        expected |= {"holdout"} if candidate.key in baseline_keys | {result.winner.key} else set()
        assert slices_of(run, candidate.key) == expected


def test_rows_are_every_baseline_then_the_winner_on_every_slice(tmp_path: Path) -> None:
    _, _, result = finished(tmp_path / "trials.jsonl")
    assert [row.label for row in result.rows] == [*toy_baselines(), "winner"]
    assert [row.role for row in result.rows] == ["baseline"] * 5 + ["winner"]
    assert all(set(row.scores) == set(SLICES) and not math.isnan(row.scores["holdout"]) for row in result.rows)


def test_difference_is_that_of_the_table_and_the_interval_holds_it(tmp_path: Path) -> None:
    _, _, result = finished(tmp_path / "trials.jsonl")
    rows = {row.label: row.scores["holdout"] for row in result.rows}
    assert result.best_baseline == max(toy_baselines(), key=lambda label: rows[label])
    assert result.interval.difference == pytest.approx(rows["winner"] - rows[result.best_baseline])
    assert result.interval.low <= result.interval.difference <= result.interval.high
    assert result.interval.verdict == "better"


def test_the_winner_is_chosen_on_select_not_on_search(tmp_path: Path) -> None:
    """The best on search is spoiled on select only; it must lose."""
    _, board, _ = finished(tmp_path / "plain.jsonl")
    best = board.ranked()[0][0].key

    def spoiled(job: Job) -> list[float] | None:
        return [0.0] * 3 if job.key == best and job.chunk.startswith("select") else None

    _, again, result = finished(tmp_path / "spoiled.jsonl", ToyPool(answers=spoiled))
    assert again.ranked()[0][0].key == best != result.winner.key


def test_holdout_does_not_choose(tmp_path: Path) -> None:
    _, _, plain = finished(tmp_path / "plain.jsonl")

    def bad_luck(job: Job) -> list[float] | None:
        return [0.0] * 3 if job.key == plain.winner.key and job.chunk.startswith("holdout") else None

    _, _, result = finished(tmp_path / "unlucky.jsonl", ToyPool(answers=bad_luck))
    assert result.winner.key == plain.winner.key
    assert result.interval.verdict == "worse"


def test_a_baseline_may_win_and_is_called_a_tie(tmp_path: Path) -> None:
    uniform = toy_baselines()["uniform"].key()
    pool = ToyPool(answers=lambda job: [2.0] * 3 if job.key == uniform else None)
    _, _, result = finished(tmp_path / "trials.jsonl", pool)
    assert (result.winner.key, result.best_baseline) == (uniform, "uniform")
    assert (result.rows[-1].label, result.interval.verdict) == ("uniform", "tie")


def test_a_finalist_that_fails_on_select_leaves_the_next_one(tmp_path: Path) -> None:
    _, board, _ = finished(tmp_path / "plain.jsonl")
    best = board.ranked()[0][0].key
    _, _, result = finished(tmp_path / "failing.jsonl", failing("select", lambda job: job.key == best))
    assert result.winner.key != best


def test_a_winner_that_fails_on_holdout_makes_way_for_the_next(tmp_path: Path) -> None:
    baseline_keys = {recipe.key() for recipe in toy_baselines().values()}
    _, _, result = finished(tmp_path / "trials.jsonl", failing("holdout", lambda job: job.key not in baseline_keys))
    assert result.winner.key in baseline_keys
    assert not math.isnan(result.rows[-1].scores["holdout"])


def test_a_baseline_that_fails_on_holdout_is_a_failed_row(tmp_path: Path) -> None:
    left = toy_baselines()["left"].key()
    _, _, result = finished(tmp_path / "trials.jsonl", failing("holdout", lambda job: job.key == left))
    row = next(row for row in result.rows if row.label == "left")
    assert math.isnan(row.scores["holdout"]) and row.tasks == {}
    text = json.dumps(result.as_dict())
    assert "NaN" not in text, "result.json must be JSON for every reader"


def test_nothing_scored_on_select_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no candidate could be scored on select.*trials\.jsonl"):
        finished(tmp_path / "trials.jsonl", failing("select", lambda job: True))


def test_a_repeated_use_of_holdout_is_counted_once(tmp_path: Path) -> None:
    run, _, result = finished(tmp_path / "trials.jsonl")
    again, _, repeated = finished(tmp_path / "trials.jsonl")
    assert again.pool.jobs == []
    assert repeated.as_dict() == result.as_dict()
    uses = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines() if '"look"' in line]
    assert len(uses) == 1 and uses[0]["look"] == "holdout" and result.winner.key in uses[0]["keys"]
    assert run.ledger.slice_uses == uses


@pytest.mark.parametrize("label", ["centre", "model"])
def test_predicted_optima_are_scored_on_search_and_on_select_whatever_their_rank(label: str, tmp_path: Path) -> None:
    run, board, _ = finished(tmp_path / "trials.jsonl")
    (optimum,) = [c for c in board.candidates.values() if c.label == label]
    assert optimum.key == toy_space().decode(board.predicted_optima[label]).key()
    assert {"search", "select"} <= slices_of(run, optimum.key)


@pytest.mark.parametrize("label", ["centre", "model"])
def test_a_predicted_optimum_may_win(label: str, tmp_path: Path) -> None:
    _, board, _ = finished(tmp_path / "plain.jsonl")
    key = toy_space().decode(board.predicted_optima[label]).key()
    best_on_select = ToyPool(answers=lambda job: [9.0] * 3 if job.key == key and "select" in job.chunk else None)
    _, _, result = finished(tmp_path / "best_on_select.jsonl", best_on_select)
    assert (result.winner.label, result.rows[-1].label) == (label, "winner")


def test_a_predicted_optimum_that_fails_is_no_finalist(tmp_path: Path) -> None:
    _, board, _ = finished(tmp_path / "plain.jsonl")
    key = toy_space().decode(board.predicted_optima["centre"]).key()
    run, again, result = finished(tmp_path / "failing.jsonl", failing("search", lambda job: job.key == key))
    assert slices_of(run, key) == {"search"} and result.winner.key != key
    assert "centre" in again.failures()


def test_an_optimizer_without_a_centre_has_one_finalist_less(tmp_path: Path) -> None:
    run = Run(tmp_path / "trials.jsonl")
    board = run.search(24, toy_optimizer("random"), close=False)
    Finaliser(run.evaluator, board, toy_baselines(), FinaliseConfig(top=2), seed=1).run(toy_space(), {})
    assert set(board.predicted_optima) == {"model"} and "centre" not in {c.label for c in board.candidates.values()}
    run.ledger.close()


def test_every_baseline_is_compared_and_corrected(tmp_path: Path) -> None:
    _, _, result = finished(tmp_path / "trials.jsonl")
    rows = {row.label: row.scores["holdout"] for row in result.rows}
    assert [c.label for c in result.comparisons] == list(toy_baselines())
    for found in result.comparisons:
        assert found.interval.difference == pytest.approx(rows["winner"] - rows[found.label])
        assert found.significance.p == pytest.approx(2 / 2**6), "better on all of six items"
        assert found.corrected_p == pytest.approx(5 * 2 / 2**6) and found.verdict == "tie"
    assert result.verdict == "tie", "six items cannot prove it against five baselines"


def test_the_gap_is_what_search_promised_and_holdout_did_not_keep(tmp_path: Path) -> None:
    _, _, plain = finished(tmp_path / "plain.jsonl")
    assert plain.gap == pytest.approx({"winner": 0.0, "baselines": 0.0}, abs=1e-12)

    def worse_on_holdout(job: Job) -> list[float] | None:
        return [0.25] * 3 if job.key == plain.winner.key and "holdout" in job.chunk else None

    _, _, result = finished(tmp_path / "lucky.jsonl", ToyPool(answers=worse_on_holdout))
    assert result.gap["winner"] == pytest.approx(result.rows[-1].scores["search"] - 0.25)
    assert result.gap["baselines"] == pytest.approx(0.0, abs=1e-12)


def test_simplification_and_sensitivity_are_scored_on_select_and_use_holdout_once(tmp_path: Path) -> None:
    def answers(job: Job) -> list[float]:
        return [1.0 - (float(weights(job.recipe)[0]) - 0.8) ** 2] * 3

    run, _, result = finished(tmp_path / "trials.jsonl", ToyPool(answers=answers), simplify=10, cloud=4)
    assert result.sensitivity is not None and result.sensitivity.points == 4
    simpler = result.simplification
    assert simpler is not None and simpler.row is not None and simpler.interval is not None
    assert simpler.steps == ("without right",)
    assert simpler.interval.difference == pytest.approx(
        simpler.row.scores["holdout"] - result.rows[-1].scores["holdout"], abs=1e-12
    )
    assert len(run.ledger.slice_uses) == 1 and simpler.row.key in run.ledger.slice_uses[0]["keys"]
    held = {job.key for job in run.pool.jobs if "holdout" in job.chunk}
    assert held == set(run.ledger.slice_uses[0]["keys"])
    document = json.loads(json.dumps(result.as_dict()))
    assert document["simpler"]["row"]["role"] == "simpler" and document["sensitivity"]["points"] == 4


def test_only_uses_of_holdout_with_a_new_candidate_count() -> None:
    def record_use(*keys: str, at: str = "holdout") -> dict[str, Any]:
        return {"look": at, "keys": list(keys)}

    assert count_holdout_uses([]) == 0
    assert (
        count_holdout_uses([record_use("a", "b"), record_use("b", "a"), record_use("a"), record_use("c", at="select")])
        == 1
    )
    assert count_holdout_uses([record_use("a", "b"), record_use("a", "c"), record_use("c", "b")]) == 2


def test_finalising_a_longer_search_is_a_second_use_of_holdout(tmp_path: Path) -> None:
    _, _, first = finished(tmp_path / "trials.jsonl")
    run = Run(tmp_path / "trials.jsonl")
    board = run.search(60, close=False)
    second = Finaliser(run.evaluator, board, toy_baselines(), FinaliseConfig(top=3), seed=1).run(toy_space(), {})
    assert second.winner.key != first.winner.key and count_holdout_uses(run.ledger.slice_uses) == 2
    run.ledger.close()


def test_generated_answers_are_counted_for_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(self: ToyScorer, chunk: Chunk, responses: Sequence[float]) -> dict[str, int]:
        return {"answers": 50, "truncated": 20 if responses[0] < 0.5 else 1, "empty": 0, "unparsable": 3}

    _, _, plain = finished(tmp_path / "plain.jsonl")
    assert all("answers" not in row for row in plain.as_dict()["rows"]) and plain.truncated_more == ()
    monkeypatch.setattr(ToyScorer, "answers", answers)
    _, _, result = finished(tmp_path / "trials.jsonl")
    document = result.as_dict()
    found = {row["label"]: row["answers"] for row in document["rows"]}
    assert found["winner"] == {"answers": 100, "truncated": 2, "empty": 0, "unparsable": 6}
    assert found["base"]["truncated"] == found["right"]["truncated"] == 40
    ahead = ConfidenceInterval(0.2, 0.1, 0.3, 0.95)
    sure = tuple(dataclasses.replace(c, corrected_p=0.0, interval=ahead) for c in result.comparisons)
    assert document["truncated_more"] == [], "nobody is beaten: it is a tie with all"
    assert dataclasses.replace(result, comparisons=sure).truncated_more == ("base", "right")
    _, _, resumed = finished(tmp_path / "trials.jsonl")
    assert resumed.as_dict()["rows"] == document["rows"]


def test_a_winner_that_is_a_baseline_is_known_by_its_recipe(tmp_path: Path) -> None:
    """Every proposed candidate is spoiled on select, so that the best baseline there wins."""
    keys = {recipe.key() for recipe in toy_baselines().values()}

    def spoiled(job: Job) -> list[float] | None:
        return [0.0] * 3 if job.key not in keys and job.chunk.startswith("select") else None

    _, _, result = finished(tmp_path / "spoiled.jsonl", ToyPool(answers=spoiled))
    (twin,) = result.twins("f", {})
    assert toy_baselines()[twin].key() == result.winner.key


def test_baselines_that_score_as_the_winner_on_every_item_are_suspects(tmp_path: Path) -> None:
    run, _, result = finished(tmp_path / "trials.jsonl")
    baselines = [Candidate.of(label, recipe) for label, recipe in toy_baselines().items()]
    winner = next(c for c in baselines if c.label == "uniform")
    twin = dataclasses.replace(winner, label="twin", key=result.winner.key)
    near = {c.label: round(math.dist(weights(c.recipe), BEST), 9) for c in baselines}
    equal = [label for label, distance in near.items() if distance == near["uniform"] and label != "uniform"]
    assert 0 < len(equal) < 4
    assert [c.label for c in find_suspects(run.evaluator, winner, [*baselines, twin])] == equal
    unscored = dataclasses.replace(winner, key="never scored")
    assert find_suspects(run.evaluator, unscored, [dataclasses.replace(winner, key="nor this")]) == ()


def test_a_suspect_is_the_winner_if_its_weights_are(tmp_path: Path) -> None:
    _, _, result = finished(tmp_path / "trials.jsonl")
    base, merged, document = Candidate.of("base", toy_baselines()["base"]), [], tmp_path / "result.json"

    def fingerprint_of(recipe: Recipe) -> str:
        merged.append(recipe.key())
        return "f"

    suspects = same_weights([base], "f", fingerprint_of, document)
    assert suspects == {"base": "f"} and result.twins("f", suspects) == ["base"] and result.twins("g", suspects) == []
    document.write_text(json.dumps({"fingerprint": "f", "suspects": suspects}))
    assert same_weights([base], "f", fingerprint_of, document) == suspects and merged == [base.key]
    same_weights([base], "other", fingerprint_of, document)
    assert merged == [base.key, base.key], "of another winner"


def test_kinds_of_baselines() -> None:
    found = describe_twins(["base", "math", "uniform", "default", "ties"], {"math"})
    assert [twin["kind"] for twin in found] == ["base", "expert", "uniform", "default", "baseline"]


# --- calibrated routers ---

ROUTERS = TensorFile("routers.safetensors", "0" * 64)


def pool_of_routers(bonus: float) -> ToyPool:
    """A recipe with calibrated routers has this score more than the one without."""
    plain = ToyPool()

    def answers(job: Job) -> list[Any] | None:
        return [value + bonus for value in plain._score(job)] if job.recipe.routers else None

    return ToyPool(answers=answers)


@pytest.mark.parametrize(("bonus", "kept"), [(0.1, True), (-0.1, False), (0.0, False)])
def test_calibrated_routers_are_kept_if_better_on_select(bonus: float, kept: bool, tmp_path: Path) -> None:
    run, result = with_trial(
        tmp_path / "trials.jsonl", lambda recipe: recipe.with_routers(ROUTERS), pool_of_routers(bonus)
    )
    assert (result.winner.recipe.routers == ROUTERS) == kept
    trial = result.as_dict()["routers"]
    assert trial["kept"] == kept and trial["after"] - trial["before"] == pytest.approx(bonus)
    (calibrated,) = {job.key for job in run.pool.jobs if job.recipe.routers}
    assert ("holdout" in slices_of(run, calibrated)) == kept, "holdout scores the winner alone"
    assert not math.isnan(result.rows[-1].scores["search"])


def test_routers_that_cannot_be_calibrated_leave_the_winner(tmp_path: Path) -> None:
    _, result = with_trial(tmp_path / "trials.jsonl", lambda recipe: None, ToyPool())
    assert result.winner.recipe.routers is None and result.as_dict()["routers"] is None


def test_points_around_a_winner_with_calibrated_routers_have_them_too(tmp_path: Path) -> None:
    run = Run(tmp_path / "trials.jsonl", pool_of_routers(0.1))
    board = run.search(24, close=False)
    config = FinaliseConfig(top=3, cloud=3)
    calibrate = lambda recipe: recipe.with_routers(ROUTERS)  # noqa: E731
    result = Finaliser(run.evaluator, board, toy_baselines(), config, seed=1, calibrate=calibrate).run(toy_space(), {})
    run.ledger.close()
    assert result.winner.recipe.routers == ROUTERS and result.sensitivity and result.sensitivity.points == 3
    assert len({job.key for job in run.pool.jobs if job.recipe.routers}) == 4
