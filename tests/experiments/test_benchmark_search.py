"""The benchmark of the search: that its one command runs and what its rows hold, never who wins."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "benchmarks" / "search.py"
pytestmark = pytest.mark.slow  # a process of its own
SOME = ["CMA-ES as mergekit-evolve", "random", "cma", "slope", "optuna tpe"]
STATIC = [
    "best expert",
    "uniform average",
    "task_arithmetic, textbook",
    "task arithmetic, best of 0.2 to 1.0",
    "ties, textbook",
    "dare_ties, textbook",
]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    path = tmp_path_factory.mktemp("benchmark") / "rows.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(path), "--contestants", ";".join(SOME)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_static_recipes_then_everybody_without_and_with_racing(quick: tuple[str, list[dict[str, Any]]]) -> None:
    names = [(row["racing"], row["name"]) for row in quick[1]]
    off, on = [("off", name) for name in SOME], [("on", name) for name in SOME[1:]]
    assert names == [*(("", name) for name in STATIC), *off, *on], "the rival knows no races"


def test_nobody_spends_more_than_the_budget_and_a_generation(quick: tuple[str, list[dict[str, Any]]]) -> None:
    for row in quick[1][len(STATIC) :]:
        assert len(row["items"]) == len(row["generations"]) == row["seeds"] == 2
        assert all(0 < items <= (12 + 16) * 32 for items in row["items"])
        assert {"commit", "torch", "cpu", "threads"} <= set(row["environment"])


def test_scores_are_known_at_every_share(quick: tuple[str, list[dict[str, Any]]]) -> None:
    for row in quick[1]:
        assert list(row["at"]) == ["0.05", "0.1", "0.25", "0.5", "1.0"]
        for scores in row["at"].values():
            assert set(scores) == {"search", "select", "holdout", "holdout of the leader"}
            assert all(0.0 <= value <= 1.0 for values in scores.values() for value in values)
        leaders = [row["at"][share]["search"] for share in row["at"]]
        assert all(
            early <= late for one, other in itertools.pairwise(leaders) for early, late in zip(one, other, strict=True)
        )


def test_the_table_names_everybody(quick: tuple[str, list[dict[str, Any]]]) -> None:
    assert "uniform average" in quick[0] and "optuna tpe" in quick[0] and "12 × 32 items" in quick[0]
