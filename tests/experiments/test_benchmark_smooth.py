"""The benchmark of smooth scores: that it runs, and that its scores and ratios are what they say; never who wins."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "experiments" / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_probabilities_are_those_of_a_softmax() -> None:
    from _smooth import SMOOTH

    choices, metric = np.array([[-1.0, -2.0, -4.0], [-900.0, -1.0, -1.0]]), np.array([1.0, 0.0])
    total = sum(math.exp(value) for value in (-1.0, -2.0, -4.0))
    found = SMOOTH["probability"](choices, 1, metric)
    assert found.tolist() == pytest.approx([math.exp(-2.0) / total, 0.5])
    assert SMOOTH["metric + probability"](choices, 1, metric).tolist() == pytest.approx((found + metric) / 2)
    assert SMOOTH["margin"](choices, 0, metric).tolist() == pytest.approx([1.0, -4.0]), "bounded"
    assert SMOOTH["log-probability"](choices, 0, metric).tolist() == pytest.approx([-1.0 - math.log(total), -4.0])
    half = sum(math.exp(value / 0.5) for value in (-1.0, -2.0, -4.0))
    assert SMOOTH["probability, T=0.5"](choices, 1, metric)[0] == pytest.approx(math.exp(-4.0) / half)


def test_a_score_with_half_the_noise_needs_a_quarter_of_the_items() -> None:
    from smooth import SIZES, Ranks, ratio

    draw = np.random.default_rng(1)
    strength, noise = draw.standard_normal((40, 1)), 3.0 * draw.standard_normal((2, 40, 400))
    values = {"metric": strength + noise[0], "clear": strength + noise[1] / 2}
    found = Ranks(values, np.repeat(np.arange(4), 100), np.arange(40), draw).measure(100)
    assert list(found["metric"].shape) == [len(SIZES), 3]
    for column in (0, 1):
        assert ratio(found["metric"][:, column], found["metric"][:, column]) == pytest.approx(1.0, rel=1e-6)
        assert 2.8 < ratio(found["metric"][:, column], found["clear"][:, column]) < 5.6


@pytest.mark.slow
@pytest.mark.parametrize("part", ["ranks", "searches"])
def test_its_one_command_runs(tmp_path: Path, part: str) -> None:
    path = tmp_path / "rows.json"
    command = [sys.executable, str(BENCHMARKS / "smooth.py"), part, "--quick", "--json", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    if part == "searches":
        assert [row["name"] for row in rows] == ["metric", "probability", "metric + probability"]
        assert all(0 <= score <= 1 for row in rows for score in row["holdout 1.0"])
    else:
        assert [row["group"] for row in rows[:: len(rows) // 4]] == ["all", "wide", "early", "late"]
        assert all(-1 <= tau <= 1 for row in rows for tau in row["tau"])
        assert all(1 / 16 <= row["half ratio"] * (1 + 1e-9) <= 16 * (1 + 2e-9) for row in rows)
