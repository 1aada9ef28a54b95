"""The benchmark of the merge engine: that its one command runs and what its rows hold, never how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "benchmarks" / "materialize.py"
pytestmark = pytest.mark.slow  # a process of its own
METHODS = {"linear", "task_arithmetic", "ties", "dare_ties", "slerp", "adapters"}
LABELS = {"benchmark", "case", "size", "experts", "parameters", "group", "name", "note", "environment"}
NUMBERS = {"seconds", "spread", "repeats", "ratio", "ratio_spread", "first_seconds", "bytes", "share"}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("benchmark")
    arguments = ["--quick", "--threads", "1", "--json", str(folder / "rows.json"), "--scratch", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["rows.json"]
    return done.stdout, json.loads((folder / "rows.json").read_text())


def test_every_method_has_a_copy_ours_and_plain_torch(quick: tuple[str, list[dict[str, Any]]]) -> None:
    found = {method: {row["name"] for row in quick[1] if row["case"] == method} for method in METHODS}
    assert {row["case"] for row in quick[1]} == METHODS
    assert all(names >= {"copy", "ours", "plain torch"} for names in found.values())


def test_rows_have_one_shape(quick: tuple[str, list[dict[str, Any]]]) -> None:
    for row in quick[1]:
        assert set(row) == LABELS | NUMBERS
        assert row["repeats"] == 2 and row["note"] is None
        assert 0 < row["spread"][0] <= row["seconds"] <= row["spread"][1]
        assert (row["first_seconds"] is not None) == row["name"].startswith("ours")
        assert {"commit", "torch", "cpu", "threads", "device"} <= set(row["environment"])


def test_ratios_are_to_ours_and_shares_to_the_copy(quick: tuple[str, list[dict[str, Any]]]) -> None:
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for row in quick[1]:
        groups.setdefault(row["group"], {})[row["name"]] = row
    for rows in groups.values():
        copy, ours, plain = rows["copy"], rows["ours"], rows["plain torch"]
        assert ours["ratio"] == 1.0 and copy["ratio"] is None and copy["share"] == 1.0
        low, high = plain["spread"][0] / ours["spread"][1], plain["spread"][1] / ours["spread"][0]
        assert low <= plain["ratio_spread"][0] <= plain["ratio"] <= plain["ratio_spread"][1] <= high
        bandwidth = copy["bytes"] / copy["seconds"]
        assert ours["share"] == pytest.approx(ours["bytes"] / bandwidth / ours["seconds"])


def test_the_bytes_are_one_read_of_every_source_and_one_write(quick: tuple[str, list[dict[str, Any]]]) -> None:
    ours = {row["case"]: row for row in quick[1] if row["name"] == "ours"}
    for method in METHODS - {"adapters"}:
        assert ours[method]["bytes"] == 2 * ours[method]["parameters"] * (ours[method]["experts"] + 2)
    model = 2 * ours["adapters"]["parameters"]
    assert 2 * model < ours["adapters"]["bytes"] < 4 * model
    assert ours["slerp"]["experts"] == 1 and ours["adapters"]["experts"] == 4


def test_the_table_names_the_machine_and_every_case(quick: tuple[str, list[dict[str, Any]]]) -> None:
    assert all(f"{method} 1M" in quick[0] for method in METHODS)
    assert quick[1][0]["environment"]["torch"] in quick[0]
