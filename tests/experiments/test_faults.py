"""The faults of docs/reliability.md: a few of them in a process of its own, and the page that lists them."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.faults.inputs import INPUTS
from experiments.faults.table import Row, page

ROOT = Path(__file__).parents[2]
FEW = """
import sys
from pathlib import Path
import torch
from experiments.faults.inputs import changed_between_commands
from experiments.faults.interruptions import Interruptions
torch.set_num_threads(1)
root = Path(sys.argv[1]) / "trial"
trials = Interruptions(root, seed=1)
for row in (trials.killed(1), trials.killed_at_file_operations(1), trials.torn(1), changed_between_commands(root)):
    assert row.well == row.times == 1, row
"""


def test_the_page_has_a_row_for_each_fault() -> None:
    rows = [Row("SIGKILL", "random moments", 5, 4, "at most 1 chunk", ("recipe",))]
    inputs = [Row(name, "", 1, 1, "`…: missing`") for name in INPUTS]
    text = page(rows, inputs, "Measured here.")
    assert "| SIGKILL | random moments | 4 of 5 | at most 1 chunk |" in text
    assert all(f"| {name} | 1 of 1 |" in text for name in INPUTS)


def test_the_page_of_the_docs_lists_every_fault_and_no_failure() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in text for name in INPUTS)
    counts = [cell.split(" of ") for line in text.splitlines() for cell in line.split(" | ") if " of " in cell[:12]]
    numbers = [(left, right) for left, right, *_ in counts if left.isdigit() and right.isdigit()]
    assert len(numbers) > len(INPUTS) and all(left == right for left, right in numbers)


@pytest.mark.slow
def test_a_disturbed_search_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FEW, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
