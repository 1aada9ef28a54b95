"""The numbers behind the figures: which candidates, in which order, with which scores."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.ledger.ledger import Ledger
from evomerge.report import write_report
from evomerge.report.record import mean_intervals, read_record

from .conftest import HOSTILE, REASON, write_run


def test_candidates_are_numbered_as_first_asked_without_the_baselines(run_folder: Path) -> None:
    candidates = read_record(run_folder).candidates
    assert [(c.number, c.key) for c in candidates] == [(1, "c1"), (2, "c2"), (3, "c3"), (4, "c4")]


def test_scores_are_the_weighted_means_of_the_tasks_on_the_search_slice(run_folder: Path) -> None:
    scores = [c.score for c in read_record(run_folder).candidates]
    assert scores[0] == pytest.approx(0.25)  # easy 1, hard 0 with weight 3
    assert scores[2] == pytest.approx((1 + 3 * 0.5) / 4)  # holdout’s chunk does not count
    assert math.isnan(scores[1])


def test_a_dropped_candidate_has_the_score_of_what_it_saw_and_never_leads(run_folder: Path) -> None:
    record = read_record(run_folder)
    assert record.candidates[3].score == pytest.approx(0.75) and not record.candidates[3].complete
    assert record.best_so_far() == pytest.approx([0.4, 0.4, 0.4, 0.625, 0.625])


def test_failures_have_their_reasons(run_folder: Path) -> None:
    assert read_record(run_folder).failures() == {2: REASON}


def test_models_are_the_winner_the_best_baseline_and_the_other_experts(run_folder: Path) -> None:
    models = read_record(run_folder).compared_models()
    assert [(c.label, c.role) for c in models] == [("winner", "winner"), ("math", "best-baseline"), (HOSTILE, "expert")]
    assert models[0].scores == {"all tasks": 0.6, "easy": 0.6, "hard": 0.3}


def test_a_winner_that_is_a_baseline_is_no_candidate(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path, winner="b1", label="math"))
    assert [c.key for c in record.candidates] == ["c1", "c2", "c3", "c4"]


@pytest.mark.parametrize("name", ["config.yaml", "trials.jsonl", "recipe.yaml", "result.json"])
def test_an_unfinished_run_is_named_by_what_it_lacks(run_folder: Path, name: str) -> None:
    (run_folder / name).unlink()
    with pytest.raises(RunError, match=f"no {name}; give the folder of a finished run"):
        read_record(run_folder)


def test_files_that_do_not_belong_together_are_one_line(run_folder: Path) -> None:
    (run_folder / "result.json").write_text("{}")
    with pytest.raises(RunError, match=r"do not fit together.*rows"):
        read_record(run_folder)


def test_a_result_of_an_earlier_version_says_what_to_do(run_folder: Path) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    (run_folder / "result.json").write_text(json.dumps({k: v for k, v in result.items() if k != "comparisons"}))
    with pytest.raises(RunError, match=r"comparisons.*repeat the run's command"):
        read_record(run_folder)


def test_what_only_select_or_holdout_saw_is_no_candidate_of_the_search(run_folder: Path) -> None:
    ledger = Ledger(run_folder / "trials.jsonl", {})
    ledger.append_scores("simpler", "holdout/0", [1.0, 1.0], 0.1, {})
    ledger.close()
    assert [c.key for c in read_record(run_folder).candidates] == ["c1", "c2", "c3", "c4"]


def test_intervals_are_those_of_the_means_over_items() -> None:
    """Of 0/1 items the bootstrap interval is close to the exact binomial one; equal items have no spread."""
    items = {f"easy/{i}": float(i < 30) for i in range(100)} | {f"hard/{i}": 1.0 for i in range(10)}
    found = mean_intervals(items | {"f1/0": [1, 2]}, {"easy": 1.0, "hard": 3.0})
    mean, (low, high) = found["easy"]
    assert mean == pytest.approx(0.3) and low == pytest.approx(0.21, abs=0.02) and high == pytest.approx(0.39, abs=0.02)
    assert found["hard"] == (1.0, (1.0, 1.0)) and "f1" not in found
    mean, (low, high) = found["all tasks"]
    assert mean == pytest.approx((0.3 + 3) / 4) and high - low == pytest.approx((0.39 - 0.21) / 4, abs=0.01)


def test_a_score_that_is_no_mean_over_items_has_no_interval(run_folder: Path) -> None:
    """The result says 0.6, and the mean of the items of holdout is 1."""
    winner, *_ = read_record(run_folder).compared_models()
    assert winner.intervals == {}
    path = run_folder / "result.json"
    result = json.loads(path.read_text())
    result["rows"][-1] |= {
        "scores": {**result["rows"][-1]["scores"], "holdout": 1.0},
        "tasks": {"easy": 1.0, "hard": 1.0},
    }
    path.write_text(json.dumps(result))
    winner, *_ = read_record(run_folder).compared_models()
    assert winner.intervals == dict.fromkeys(("all tasks", "easy", "hard"), (1.0, 1.0))


def test_items_are_counted_by_step(run_folder: Path) -> None:
    steps = {"baselines, search": 16, "candidates, search": 12, "select": 0, "holdout": 10}
    assert read_record(run_folder).items == steps


DAMAGE: dict[str, tuple[str, Any, str]] = {
    "a truth value": ("difference", True, "difference=true: give a number"),
    "a text": ("interval", {"low": "0.1"}, "interval.low=0.1: give a number"),
    "rows": ("rows", [1], "rows.0=1: give a mapping"),
    "a score": ("rows", [{"label": "a", "scores": {"search": "x"}}], "rows.0.scores.search=x: give a number"),
    "another baseline": ("best_baseline", "nobody", "do not fit together"),
}


@pytest.mark.parametrize(("key", "value", "message"), DAMAGE.values(), ids=list(DAMAGE))
def test_a_result_with_other_values_is_one_line(run_folder: Path, key: str, value: Any, message: str) -> None:
    path = run_folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(RunError) as error:
        write_report(run_folder)
    assert message in str(error.value) and str(run_folder) in str(error.value)
