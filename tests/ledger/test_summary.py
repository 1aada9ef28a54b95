"""What `evomerge ledger` says of a ledger, and what it refuses."""

from pathlib import Path

import pytest

from evomerge.errors import RunError
from evomerge.ledger import Cut, Ledger, describe_ledger

HEADER = {
    "config": {"scorer": {"tasks": ["t"]}},
    "chunks": {"search/0": ["t/1", "t/2"], "holdout/0": ["t/3"]},
    "versions": {"torch": "2"},
}
RECIPE = {"merge_method": "linear"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of two commands: two models, two failures, a cut slice."""
    for number in range(2):
        ledger = Ledger(tmp_path / "trials.jsonl", HEADER, started=-100.0)
        ledger.append_scores(f"m{number}", "search/0", [1.0, 0.0], 2.5, RECIPE)
        ledger.append_failure("bad", "search/0" if number else "holdout/0", "no memory", RECIPE)
        ledger.close()
    ledger = Ledger(tmp_path / "trials.jsonl", HEADER)
    ledger.append_scores("m0", "holdout/0", [1.0], 1.0, RECIPE)
    ledger.append_cut(Cut("holdout", 1))
    ledger.close()
    return tmp_path / "trials.jsonl"


def test_scores_failures_decisions_and_times_are_counted(path: Path) -> None:
    said = list(describe_ledger(path))
    assert "search    2 models, 2 chunks, 4 items, 5 s of scoring" in said
    assert "holdout   1 models, 1 chunks, 1 items, 1 s of scoring" in said
    assert "failed    2 × no memory" in said
    assert "cut       1 slices or steps that were shortened for lack of time" in said
    assert said[-1].endswith("in 2 commands") and not any(line.startswith("torn") for line in said)


def test_an_incomplete_last_line_is_named_and_kept(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "m1", "chu')
    assert "torn      the last 18 bytes are an incomplete line, which the next command drops" in describe_ledger(path)
    assert path.read_bytes() == whole + b'{"key": "m1", "chu'


def test_a_wrong_line_is_refused_by_its_number(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"hello": 1}\n')
    with pytest.raises(RunError, match=r"trials.jsonl: line \d+ is not a trial; restore it from a copy"):
        list(describe_ledger(path))


def test_without_a_ledger_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a readable ledger"):
        list(describe_ledger(tmp_path / "trials.jsonl"))
