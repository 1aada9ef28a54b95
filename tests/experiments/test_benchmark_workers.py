"""The benchmarks of simulated workers and of long searches: that they run and what their rows hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # processes of their own


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "experiments" / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_workers_are_busier_without_generations(tmp_path: Path) -> None:
    run("workers.py", "--quick", "--json", str(tmp_path / "rows"))
    rows = json.loads((tmp_path / "rows").read_text())
    busy = {row["name"]: row["busy"] for row in rows if row["part"] == "busy"}
    assert busy["asynchronous"] > busy["generations"] and all(0.3 < share <= 1.0 for share in busy.values())
    assert all(0.5 < score < 0.9 for row in rows if row["part"] == "quality" for score in row["at_items"])


def test_a_repeated_long_search_pays_nothing(tmp_path: Path) -> None:
    run("long_search.py", "--candidates", "100", "--folder", str(tmp_path), "--json", str(tmp_path / "rows"))
    first, again = json.loads((tmp_path / "rows").read_text())
    assert first["paid"] > 90 and again["paid"] == 0 and again["ledger"] == first["ledger"]
