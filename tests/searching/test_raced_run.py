"""A whole raced run of the quickstart family: the same after a kill, and with any number of workers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SMALL, evomerge
from tests.experiment.test_run import paid_twice, same_run, scores_of, without_timings

RACED = (*SMALL, "scorer.chunk_items=8", "race.least=8")


@pytest.fixture(scope="module", params=["rotating", pytest.param("informative", marks=pytest.mark.slow)])
def items(request: pytest.FixtureRequest) -> str:
    """What the items of a race are."""
    return f"race.items={request.param}"


@pytest.fixture(scope="module")
def raced(items: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in whose generations most candidates were stopped early."""
    cwd = tmp_path_factory.mktemp("raced")
    said = evomerge("+experiment=quickstart", *RACED, items, cwd=cwd)
    assert said.code == 0, said
    assert "stopped early" in said.out and "left" in said.out
    return cwd / "runs" / "quickstart"


def races(folder: Path) -> list[Mapping[str, Any]]:
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    return [line["race"] for line in lines if "race" in line]


def test_whoever_was_stopped_is_named_and_is_no_failure(raced: Path, items: str) -> None:
    counts = json.loads((raced / "result.json").read_text())["counts"]
    stopped = {key for race in races(raced) for key in race["stopped"]}
    assert counts["failed"] == 0 and 0 < counts["stopped_early"] <= len(stopped)
    chunks = {key: sum(1 for k, c in scores_of(raced) if k == key and c.startswith("search/")) for key in stopped}
    assert min(chunks.values()) < 4
    assert "stopped early" in (raced / "report.html").read_text()
    firsts = [race["first"] for race in races(raced)]
    if items == "race.items=rotating":
        assert len(firsts) > 1 and firsts == [f"search/{race['generation'] % 4}" for race in races(raced)]
    else:
        assert len(set(firsts)) > 1 and all(first.startswith("search/informative/") for first in firsts)


def test_the_winner_is_replayed_to_the_bit(raced: Path) -> None:
    said = evomerge("replay", str(raced), cwd=raced)
    assert said.code == 0 and "DIFFERS" not in said.out, said


def test_the_next_search_may_begin_at_its_best(raced: Path, items: str, tmp_path: Path) -> None:
    said = evomerge("check", "+experiment=quickstart", *RACED, items, f"init=[{raced}]", "name=next", cwd=tmp_path)
    assert said.code == 0, said


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("kept", [0.25, 0.5, 0.65])
def test_cut_within_a_race_the_run_ends_the_same(raced: Path, items: str, tmp_path: Path, kept: float) -> None:
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    data = (raced / "trials.jsonl").read_bytes()
    (folder / "trials.jsonl").write_bytes(data[: int(len(data) * kept)])
    assert evomerge("+experiment=quickstart", *RACED, items, cwd=tmp_path).code == 0
    same_run(folder, raced)
    assert races(folder) == races(raced)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning", "default::FutureWarning")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_no_number(raced: Path, items: str, tmp_path: Path, workers: int) -> None:
    pytest.importorskip("ray")
    pool = ("pool=ray", f"pool.workers={workers}", "pool.num_cpus=0.25")
    said = evomerge("+experiment=quickstart", *RACED, items, *pool, cwd=tmp_path)
    assert said.code == 0, said
    folder = tmp_path / "runs" / "quickstart"
    assert races(folder) == races(raced) and paid_twice(folder) == []
    assert without_timings(folder) == without_timings(raced)
    assert (folder / "recipe.yaml").read_bytes() == (raced / "recipe.yaml").read_bytes()
    assert scores_of(folder).items() >= scores_of(raced).items(), "some chunks are scored ahead, each once"


@pytest.mark.slow
def test_items_alone_end_a_search_and_widen_its_races(tmp_path: Path) -> None:
    budget = ("budget.evaluations=null", "budget.items=600")
    said = evomerge("+experiment=quickstart", *RACED, *budget, "race.most=8", cwd=tmp_path)
    assert said.code == 0 and " evaluations  " in said.out and "/" not in said.out.split(" evaluations")[0][-4:], said
    lines = (tmp_path / "runs" / "quickstart" / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["most"] for line in lines if line.startswith('{"most"')] == [600 // (8 * 6)]
