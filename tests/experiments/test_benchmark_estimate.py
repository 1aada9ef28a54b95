"""The benchmark of estimates: that its one command runs and what its rows hold, never how good an estimate is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "benchmarks" / "estimate.py"
pytestmark = pytest.mark.slow  # a process of its own


def test_every_row_has_a_bias_and_a_larger_error(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(tmp_path / "rows")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows").read_text())
    assert len({row["name"] for row in rows}) == len(rows) == 18
    for row in rows:
        assert row["bias"].keys() == row["error"].keys() == {"seen items", "leader", "control"}
        assert all(abs(row["bias"][name]) <= error for name, error in row["error"].items())
