"""A run for a contest: the time that is kept for its submission, and the pack that it ends with."""

import csv
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import evomerge
from evomerge.errors import RunError, TaskError
from evomerge.experiment import from_config, prepare_run
from evomerge.experiment import submission_step as step
from evomerge.experiment.chosen_experts import screen
from evomerge.ledger import Ledger
from evomerge.report import Display
from evomerge.scoring import Request
from evomerge.submission import Pack
from tests.conftest import QUICKSTART

SKILLS = ("last", "copy")
CHOSEN, GENERATED = 40, 6  # rows of the file to predict


def rows_of(skill: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (QUICKSTART / "data" / f"{skill}.jsonl").read_text().splitlines()]


def write_csv(path: Path, chosen: Sequence[dict[str, Any]], generated: Sequence[dict[str, Any]] = ()) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "input", "target", "answer_choices", "eval_type"])
        for number, row in enumerate(chosen):
            table.writerow([number, row["query"], row["gold"], repr(row["choices"]), "multiple_choice"])
        for number, row in enumerate(generated, len(chosen)):
            table.writerow([number, row["query"], row["choices"][row["gold"]], "", "generation"])
    return path


def config(folder: Path, **keys: Any) -> dict[str, Any]:
    """Two experts of the quickstart, a task from a file in the contest's format, and inputs of both kinds."""
    task = write_csv(folder / "last.csv", rows_of("last")[:80])
    inputs = write_csv(folder / "test.csv", rows_of("last")[:CHOSEN], rows_of("copy")[:GENERATED])
    family = QUICKSTART / "family"
    return {
        "name": "pack",
        "base": str(family / "base"),
        "experts": {name: str(family / name) for name in ("last", "max")},
        "model": {"dtype": "float32", "device": "cpu"},
        "scorer": {
            "slices": {"search": 16, "select": 8, "holdout": 16},
            "tasks": [{"name": "last", "file": str(task)}],
        },
        "budget": {"evaluations": 4, "hours": 5.0},
        "submission": {"pack": True, "inputs": [str(inputs)], "max_gen_len": 4},
        **keys,
    }


def made(folder: Path, **keys: Any) -> step.SubmissionStep:
    experiment = from_config(prepare_run(config(folder, **keys), folder / "run")[0], folder / "run")
    assert experiment.submission is not None
    return experiment.submission


def test_the_inputs_are_those_of_the_tasks_where_none_are_given(tmp_path: Path) -> None:
    assert [path.name for path in made(tmp_path, submission={"pack": True}).config.inputs] == ["last.csv"]
    assert [path.name for path in made(tmp_path).config.inputs] == ["test.csv"]


def test_a_wrong_row_is_reported_before_weights_are_read(tmp_path: Path) -> None:
    plain = config(tmp_path)
    path = Path(plain["submission"]["inputs"][0])
    path.write_text(path.read_text() + "0,Again?,1,\"['a', 'b']\",multiple_choice\n")
    with pytest.raises(TaskError, match=r"test.csv: row 47: has the id 0 of row 1"):
        evomerge.check(plain, tmp_path / "run")


def test_rows_are_timed_until_that_takes_long_enough(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def timed(kind: str, requests: Sequence[Request]) -> float:
        asked.append((kind, len(requests)))
        return 0.05 * len(requests)

    seconds = made(tmp_path).prediction_seconds(timed)
    # Four choices a row; 16 rows take 3.2 s. Six answers are all there are.
    assert asked == [("choices/0", 4), ("choices/4", 16), ("choices/16", 64), ("answers/0", 1), ("answers/4", 4),
                     ("answers/16", 6)]  # fmt: skip
    assert seconds == pytest.approx(step.CONVENTIONS * CHOSEN * 0.2 + GENERATED * 0.05)


def test_predictions_that_take_most_of_the_time_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_timed", lambda pool, base, name, requests: 3.0)
    found = made(tmp_path, budget={"hours": 0.01})
    with pytest.raises(
        RunError, match=r"46 predictions take about .* here, most of budget.hours=0.01; raise it, or give fewer inputs"
    ):
        found.measured_with(pool=None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_ends_with_a_pack_and_a_repeated_command_keeps_it(tmp_path: Path) -> None:
    plain, folder = config(tmp_path), tmp_path / "run"
    result = evomerge.search(plain, folder)
    assert result.document["seconds"]["kept_for_submission"] > 0
    assert "submission" in result.document["seconds"]["phases"]
    with tarfile.open(folder / "submission.tar") as pack:
        names = pack.getnames()
        file = pack.extractfile(next(name for name in names if name.endswith("predictions/submission.csv")))
        assert file is not None
        predicted = list(csv.reader(line.decode() for line in file))
    assert predicted[0] == ["id", "prediction", "dummy_field"] and len(predicted) == 1 + CHOSEN + GENERATED
    assert "LLM-Merging/llm_merging/merging/evomerge_run.py" in names
    stamp = (folder / "submission.tar").stat().st_mtime_ns
    again = evomerge.search(plain, folder)
    assert (folder / "submission.tar").stat().st_mtime_ns == stamp
    kept = [one.document["seconds"]["kept_for_submission"] for one in (result, again)]
    assert kept[0] == kept[1] and "load model" not in again.document["seconds"]["phases"], "no worker is started"
    other = {**plain, "submission": {**plain["submission"], "name": "other"}}
    evomerge.search(other, folder)
    with tarfile.open(folder / "submission.tar") as pack:
        assert "LLM-Merging/llm_merging/merging/other.py" in pack.getnames(), "other settings, another pack"
    (folder / "submission.tar").unlink()
    evomerge.search(other, folder)
    assert (folder / "submission.tar").exists()


def test_a_pack_is_made_again_for_other_weights_settings_or_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(tmp_path)
    out = tmp_path / "run" / "submission.tar"
    out.parent.mkdir(exist_ok=True)
    written: list[str] = []

    def write_pack(run: Path, out: Path, *inputs: Any, **keys: Any) -> Pack:
        out.write_text("pack")
        written.append("x")
        return Pack(out, "name", ())

    monkeypatch.setattr(step, "write_pack", write_pack)
    first = found.write("abc", None, str)
    assert found.write("abc", json.loads(json.dumps(first)), str) == first and len(written) == 1
    assert found.write("abd", first, str) != first and len(written) == 2
    inputs = found.config.inputs[0]
    inputs.write_text(inputs.read_text() + "99,More,,,generation\n")
    assert found.write("abc", first, str) != first and len(written) == 3


def test_nothing_is_timed_for_a_pack_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_timed", lambda pool, base, name, requests: 3.0)
    found, folder = made(tmp_path), tmp_path / "run"
    folder.mkdir(exist_ok=True)
    measured = found.seconds_needed(pool=None)  # type: ignore[arg-type]
    assert measured > step.FIXED
    record = {"fingerprint": "abc", "settings": found._settings(), "seconds": 5.0}
    (folder / "result.json").write_text(json.dumps({"submission": record}))
    assert found.seconds_needed(pool=None) == pytest.approx(measured, abs=1.0)  # type: ignore[arg-type]
    (folder / "submission.tar").write_text("pack")
    assert found.seconds_needed(pool=None) == 5.0  # type: ignore[arg-type]


def test_answers_are_timed_within_the_positions_of_the_model(tmp_path: Path) -> None:
    """The quickstart's models have 64 positions."""
    asked: list[int] = []

    def timed(kind: str, requests: Sequence[Request]) -> float:
        asked.extend(request.arguments[1]["max_gen_toks"] for request in requests if request.kind == "generate_until")
        return 1.0 * len(requests)

    inputs = str(write_csv(tmp_path / "other.csv", (), rows_of("copy")[:2]))
    found = made(tmp_path, submission={"pack": True, "inputs": [inputs], "max_gen_len": 64})
    assert found.prediction_seconds(timed) == pytest.approx(2 * 64 / 32) and set(asked) == {32}


def test_a_screening_keeps_the_time_of_the_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[float] = []

    class Screener:
        def __init__(self, evaluator: Any, timed: Any, *others: Any) -> None:
            kept.append(timed._deadline.kept)

        def run(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr("evomerge.experiment.chosen_experts.Screener", Screener)
    monkeypatch.setattr(step.SubmissionStep, "seconds_needed", lambda self, pool: 77.0)
    folder = tmp_path / "run"
    for keys in ({}, {"budget": {"evaluations": 4}}, {"submission": {}}):
        plain = prepare_run(config(tmp_path, **keys), folder)[0]
        with Display(Console(quiet=True), 4) as display:
            ledger = Ledger(tmp_path / "ledger.jsonl", {})
            screen(from_config(plain, folder), ledger, display, 0.0)
            ledger.close()
    assert kept == [77.0, 0.0, 0.0]
