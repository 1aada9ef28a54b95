"""Tables that compare several runs."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from evomerge.errors import RunError
from evomerge.report.runs import RunComparison, compare_runs

from .conftest import write_run


def shown(comparison: RunComparison) -> str:
    console = Console(file=io.StringIO(), width=240)
    for table in comparison.tables():
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def write_sweep(folder: Path, changes: Mapping[str, Mapping[str, Any]], scores: Mapping[str, float]) -> Path:
    """One run for each name, with changes of its configuration and the winner's score on holdout."""
    for name, change in changes.items():
        run = write_run(folder / name)
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "name": name, **change}))
        result = json.loads((run / "result.json").read_text())
        result["rows"][-1]["scores"]["holdout"] = scores[name]
        result["difference"] = scores[name] - 0.4
        (run / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    changes = {f"{method},{seed}": {"method": method, "seed": seed} for method in ("ties", "linear") for seed in (1, 2)}
    return write_sweep(tmp_path / "runs", changes, {"ties,1": 0.5, "ties,2": 0.7, "linear,1": 0.4, "linear,2": 0.6})


def test_the_columns_are_the_keys_that_differ(sweep: Path) -> None:
    comparison = compare_runs([sweep])
    assert comparison.keys == ("method", "seed") and len(comparison.runs) == 4
    assert not list(comparison.warnings())


def test_means_over_seeds_stand_in_a_second_table(sweep: Path) -> None:
    text = shown(compare_runs(sorted(sweep.iterdir())))
    (ties,) = (line for line in text.splitlines() if "0.6000 ± 0.1414" in line)
    assert "ties" in ties and "+0.2000 ± 0.1414" in ties and "2 better" in ties


def test_an_unfinished_run_is_a_row_without_scores(sweep: Path) -> None:
    (sweep / "ties,2" / "result.json").unlink()
    lines = [line for line in shown(compare_runs([sweep])).splitlines() if "ties,2" in line]
    assert len(lines) == 1 and "not finished: begun" in lines[0]


def test_other_tasks_are_a_warning(sweep: Path) -> None:
    path = sweep / "ties,1" / "result.json"
    result = json.loads(path.read_text())
    result["rows"][-1]["tasks"] = {"other": 1.0}
    path.write_text(json.dumps(result))
    assert "cannot be compared" in "".join(compare_runs([sweep]).warnings())


def test_what_is_no_run_and_a_damaged_run_are_one_line(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="neither a run nor a folder of runs"):
        compare_runs([sweep, tmp_path / "empty"])
    (sweep / "ties,1" / "result.json").write_text("{}")
    with pytest.raises(RunError, match=r"ties,1: its files do not fit together"):
        compare_runs([sweep])


def test_means_are_over_seeds_alone_and_the_table_stays_narrow(tmp_path: Path) -> None:
    """Two settings that differ in a long value only are not one; further keys are named below the table."""
    changes = {
        f"{place},{seed}": {
            "seed": seed,
            "init": [f"{'long/' * 10}{place}.yaml"],
            **{f"key{i}": place for i in range(9)},
        }
        for place in ("a", "b")
        for seed in (1, 2)
    }
    comparison = compare_runs([write_sweep(tmp_path / "runs", changes, dict.fromkeys(changes, 0.5))])
    assert len(comparison.keys) == 5 and "seed" in comparison.keys and "init" in comparison.others
    _, means = comparison.tables()
    assert means.row_count == 2
    assert "They also differ in" in "".join(comparison.warnings())
