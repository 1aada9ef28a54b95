"""The benchmark of the scoring engine: that its one command runs and what its rows hold, never how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import QUICKSTART

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "benchmarks" / "score.py"
pytestmark = pytest.mark.slow  # a process of its own
LABELS = {"benchmark", "case", "group", "name", "note", "environment", "difference"}
NUMBERS = {"seconds", "spread", "repeats", "ratio", "ratio_spread", "tokens", "unique", "planned", "forward"}


def rows_of(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), "--threads", "1", "--json", str(folder / "rows.json"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads((folder / "rows.json").read_text())
    assert rows[0]["environment"]["torch"] in done.stdout
    return rows


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return rows_of(tmp_path_factory.mktemp("benchmark"), "--quick", "--cases", "reading,few-shot,letters")


def test_every_case_has_ours_the_harness_and_plain_forwards(quick: list[dict[str, Any]]) -> None:
    names = [row["name"].partition(" of ")[0] for row in quick]
    assert names == ["ours", "lm-eval", "plain forwards"] * 3
    for row in quick:
        assert set(row) == LABELS | NUMBERS
        assert 0 < row["spread"][0] <= row["seconds"] <= row["spread"][1]


def test_tokens_are_counted_and_numbers_agree(quick: list[dict[str, Any]]) -> None:
    for ours, theirs, plain in zip(quick[::3], quick[1::3], quick[2::3], strict=True):
        assert ours["unique"] == plain["tokens"] <= ours["tokens"] < theirs["tokens"]
        assert ours["difference"] < 1e-4 and 0 < ours["forward"] <= 1
    assert quick[4]["tokens"] > 3 * quick[3]["tokens"]  # a few-shot prefix for every choice, or once


def test_a_folder_and_a_file_can_be_measured(tmp_path: Path) -> None:
    data = str(QUICKSTART / "data" / "last.jsonl")
    base = str(QUICKSTART / "family" / "base")
    rows = rows_of(tmp_path, "--models", base, "--data", data, "--repeats", "2", "--items", "8", "--generate", "4")
    assert rows[0]["case"] == "data/last, 8 items, 0-shot, base" and rows[0]["difference"] < 1e-4
    assert rows[3]["case"] == "data/last, 8 items, 0-shot, base, 4 tokens"
    assert [(row["equal"], row["answers"]) for row in rows[3:]] == [(8, 8), (8, 8)]
