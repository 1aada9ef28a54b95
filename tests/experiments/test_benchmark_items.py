"""The benchmark of the order of items: that it reads a run and what its rows hold, never how good an order is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "benchmarks" / "items.py"
pytestmark = pytest.mark.slow  # a process of its own


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=env)


def test_there_is_a_row_for_every_part_of_the_slice(finished: Path, tmp_path: Path) -> None:
    done = run(str(finished), "--quick", "--json", str(tmp_path / "rows"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows").read_text())
    assert [row["seen"] for row in rows] == [16], "of 32"
    assert all(0 < row[name] < 0.5 for row in rows for name in ("rotating", "informative"))
    assert all(row["environment"]["numpy"] and row["run"] in done.stdout for row in rows)


def test_a_run_with_nobody_to_compare_is_one_line(finished: Path, tmp_path: Path) -> None:
    for name in ("trials.jsonl", "result.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    result = json.loads((tmp_path / "result.json").read_text())
    lines = (tmp_path / "trials.jsonl").read_text().splitlines(keepends=True)
    kept = {row["key"] for row in result["rows"][:-1]}
    (tmp_path / "trials.jsonl").write_text(
        "".join([lines[0], *(x for x in lines[1:] if json.loads(x).get("key") in kept)])
    )
    done = run(str(tmp_path))
    assert done.returncode == 1 and "fewer than two candidates" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_is_no_finished_run_is_one_line(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert (
        done.returncode == 1 and done.stderr.strip() == f"{tmp_path}: no result.json; give the folder of a finished run"
    )
