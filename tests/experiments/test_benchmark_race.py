"""The benchmark of races: that its one command runs and what its rows hold, never how good a rule is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "benchmarks" / "race.py"
pytestmark = pytest.mark.slow  # a process of its own


def test_a_race_pays_for_less_and_its_rows_can_be_read(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--rules", "off;margin 0.5", "--json", str(tmp_path / "rows")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    off, raced = json.loads((tmp_path / "rows").read_text())
    assert off["share"] == 1.0 and 0.1 < raced["share"] < 0.95
    assert raced["generations"] > off["generations"]
    for row in (off, raced):
        assert len(row["score"]) == len(row["error"]) == len(row["items"]) and all(0.5 < s < 0.9 for s in row["score"])
        assert row["environment"]["numpy"] and row["name"] in done.stdout


def test_a_rule_that_is_not_there_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rules", "margn 1"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and "--rules margn 1: choose one of off; margin 1, 16 to 32 items;" in done.stderr
