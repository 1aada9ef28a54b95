"""A whole asynchronous run of the quickstart family: repeated, cut, refused, and told of to the reports."""

import json
from pathlib import Path

import pytest

from evomerge.experiment.resume import fixed_part
from tests.conftest import SMALL, Command, evomerge
from tests.experiment.test_run import same_run

RACED = (*SMALL, "scorer.chunk_items=8", "race.least=8", "race.most=16", "search.mode=asynchronous")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished asynchronous run with one worker."""
    cwd = tmp_path_factory.mktemp("asynchronous")
    said = evomerge("+experiment=quickstart", *RACED, cwd=cwd)
    assert said.code == 0, said
    assert "stopped early" in said.out
    return cwd / "runs" / "quickstart"


def test_it_has_a_line_for_each_result_and_a_report(finished: Path) -> None:
    lines = [json.loads(text) for text in (finished / "trials.jsonl").read_text().splitlines()]
    learnt = [line for line in lines if "learnt" in line]
    result = json.loads((finished / "result.json").read_text())
    assert [line["learnt"] for line in learnt] == list(range(1, 33)), "one worker: in the order proposed"
    assert len(learnt) == 32 and result["counts"]["stopped_early"] > 5
    assert "stopped early" in (finished / "report.html").read_text()
    said = evomerge("ledger", str(finished), cwd=finished)
    assert "learnt    32 results of an asynchronous search" in said.out


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.4, 0.7])
def test_a_cut_run_ends_with_the_same_bytes(finished: Path, tmp_path: Path, kept: float) -> None:
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    data = (finished / "trials.jsonl").read_bytes()
    (folder / "trials.jsonl").write_bytes(data[: int(len(data) * kept)])
    assert evomerge("+experiment=quickstart", *RACED, cwd=tmp_path).code == 0
    same_run(folder, finished)
    assert (folder / "recipe.yaml").read_bytes() == (finished / "recipe.yaml").read_bytes()


def test_the_mode_of_a_run_cannot_change(finished: Path) -> None:
    said = evomerge("+experiment=quickstart", *RACED[:-1], cwd=finished.parents[1])
    assert "search" in said.refused(1) and "asynchronous" in said.err


def test_check_says_so_or_refuses(command: Command) -> None:
    said = command("check", "+experiment=quickstart", *RACED)
    assert said.code == 0 and "mode      asynchronous" in said.out
    refused = command("check", "+experiment=quickstart", *RACED, "optimizer=slope").refused(2)
    assert "search.mode=asynchronous: optimizer=slope" in refused
    assert "search.mode=asynchronos" in command("check", "+experiment=quickstart", "search.mode=asynchronos").refused(2)


def test_runs_that_are_older_than_the_mode_are_resumed() -> None:
    assert fixed_part({"seed": 1, "search": {"mode": "generations"}}) == {"seed": 1}
    assert "search" in fixed_part({"search": {"mode": "asynchronous"}})
