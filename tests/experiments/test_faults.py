"""The faults of docs/reliability.md: a few of them in a process of its own, and the page that lists them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.faults.inputs import INPUTS
from experiments.faults.steps import STEPS, chosen
from experiments.faults.table import HEADINGS, INTERRUPTIONS, Measured, Row, added, merged, page, read, write

ROOT = Path(__file__).parents[2]
FEW = "driver.kill,driver.operations,driver.torn,inputs.changed"


def measured(step: str, fault: str = "SIGKILL", well: int = 5, setting: str = "here") -> Measured:
    table = next(found.table for found in STEPS if found.name == step)
    return Measured(step, table, Row(fault, "random moments", 5, well, "1 chunk", ("recipe",) * (5 - well)), setting)


def test_the_page_has_a_row_for_each_fault() -> None:
    text = page([measured("driver.kill", well=4), *(measured("inputs.refused", name) for name in INPUTS)])
    assert "| SIGKILL | random moments | 4 of 5 | 1 chunk |" in text
    assert all(f"| {name} | 5 of 5 |" in text for name in INPUTS)


def test_a_run_of_some_rows_replaces_these_and_keeps_the_others(tmp_path: Path) -> None:
    path, order = tmp_path / "page.json", [step.name for step in STEPS]
    write(path, [measured("driver.kill"), measured("inputs.refused", "a"), measured("inputs.refused", "b")])
    new = [measured("inputs.refused", "c", setting="there"), measured("driver.clock", setting="there")]
    rows = merged(read(path), new, order)
    assert [(row.step, row.row.fault) for row in rows] == [
        ("driver.kill", "SIGKILL"),
        ("driver.clock", "SIGKILL"),
        ("inputs.refused", "c"),
    ]
    text = page(rows, ["driver.kill", "driver.int", "driver.term"])
    assert "here\n" in text and "there\n" in text, "the settings of both runs are named"
    assert "Not measured yet: `--rows driver.int,driver.term`." in text


def test_the_counts_of_the_parts_of_a_measurement_are_added() -> None:
    seen = "{} hit a running search; at most {} chunks paid twice in a search{}; a note"
    parts = [
        Row("SIGKILL", "", 4, 4, seen.format(9, 1, "")),
        Row("SIGKILL", "", 5, 3, seen.format(8, 3, "; refused with one line 2 times"), ("recipe",)),
    ]
    (found,) = added([[Measured("driver.kill", INTERRUPTIONS, part, "here")] for part in parts])
    assert found.row == Row("SIGKILL", "", 9, 7, seen.format(17, 3, "; refused with one line 2 times"), ("recipe",))


def test_rows_are_chosen_by_the_beginning_of_their_names() -> None:
    assert chosen([]) == list(STEPS) and len({step.name for step in STEPS}) == len(STEPS)
    assert {step.name.split(".")[0] for step in chosen(["driver"])} == {"driver"}
    assert [step.name for step in chosen(["driver.kill"])] == ["driver.kill"]
    with pytest.raises(ValueError, match="no such rows: drive; there are driver.kill"):
        chosen(["drive"])


def test_the_page_of_the_docs_is_that_of_its_results_and_has_no_failure() -> None:
    rows = read(ROOT / "docs" / "reliability.json")
    names = [step.name for step in STEPS]
    assert page(rows, names) == (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert {row.step for row in rows} <= set(names) and {row.table for row in rows} == set(HEADINGS)
    assert not [row for row in rows if row.row.wrong or row.row.well < row.row.times]


@pytest.mark.slow
def test_a_disturbed_search_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    command = [sys.executable, "-m", "experiments.faults", "--rows", FEW, "--kills", "1", "--out", str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {entry["step"] for entry in json.loads(out.with_suffix(".json").read_text())} == set(FEW.split(","))
