"""The benchmark of slopes: that its one command runs and what its rows hold, never how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "benchmarks" / "slopes.py"
pytestmark = pytest.mark.slow  # a process of its own


def test_adapters_and_checkpoints_have_a_row(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(tmp_path / "rows.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["experts"] for row in rows] == ["4 adapters", "4 checkpoints"]
    adapters, checkpoints = rows
    assert adapters["coefficients"] == 4 * 4 * 7  # experts, layers, projections
    assert checkpoints["coefficients"] > adapters["coefficients"], "norms and embeddings move as well"
    assert 1.5 < adapters["operations"] < checkpoints["operations"] < 4.0
