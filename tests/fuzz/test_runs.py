"""The folder of a run with one file changed: each command that reads it works, or says which file is wrong."""

import contextlib
import io
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evomerge.experiment import Result
from evomerge.experiment.replay import open_run
from evomerge.experiment.submission_step import recorded_submission
from evomerge.ledger.reading import begun_header
from evomerge.parsing import dump_yaml, parse_json, parse_yaml
from evomerge.report import compare_runs, write_report
from evomerge.report.runs import RunComparison
from evomerge.space.used_items import items_used_by
from evomerge.space.warm_start import _recipes
from evomerge.submission.finished_run import FinishedRun
from tests.fuzz.budget import inputs
from tests.fuzz.outcomes import REFUSED, files_of, outcome
from tests.fuzz.test_ledgers import text_of
from tests.fuzz.values import changed, is_writable, torn
from tests.report.conftest import write_run

RUN = Path("runs/x")
WRITTEN = {"runs/x/report.html"}
FILES: dict[str, str] = {}
TREES: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The working directory, with a finished run and a second one beside it."""
    with contextlib.chdir(tmp_path_factory.mktemp("runs")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_run(RUN)
        (RUN / "flips.json").write_text('{"hard/2": ["prompt    │2 + 2", "target    4"]}')
        shutil.copytree(RUN, "runs/y")
        FILES.update({path.name: path.read_text() for path in RUN.iterdir()})
        TREES.update({name: parse_yaml(text) for name, text in FILES.items() if name.endswith(".yaml")})
        TREES.update({name: parse_json(FILES[name]) for name in ("result.json", "flips.json")})
        TREES.update({"trials.jsonl": [parse_json(line) for line in FILES["trials.jsonl"].splitlines()]})
        yield


def written(name: str, tree: Any) -> str:
    """A file of a run with another content."""
    if name == "trials.jsonl":
        return text_of(tree)
    return dump_yaml(tree, sort_keys=False)


def shown(comparison: RunComparison) -> str:
    """What a terminal shows of several runs."""
    console = Console(file=io.StringIO(), width=200)
    console.print(*comparison.tables(), *comparison.warnings())
    return str(console.file)


def read_all() -> None:
    """Every reading of a run that opens no model."""
    before = files_of(Path())
    outcome("report", lambda: write_report(RUN))
    found = outcome("comparison of runs", lambda: compare_runs([Path("runs")]))
    if found is not REFUSED:
        outcome("tables of runs", lambda: shown(found))
    result = outcome("result", lambda: Result.load(RUN))
    if result is not REFUSED:
        outcome("rows of a result", lambda: (result.rows, result.verdict, str(result), result.winner_is))
    run = outcome("finished run", lambda: FinishedRun.open(RUN))
    if run is not REFUSED:
        outcome("run of a submission", lambda: (run.gpu_bytes, run.model))
    outcome("submission", lambda: recorded_submission(RUN))
    outcome("used items", lambda: (items_used_by([str(RUN)]), begun_header(RUN)))
    outcome("recipes of a run", lambda: list(_recipes(RUN)))
    outcome("replay", lambda: open_run(RUN))
    after = files_of(Path())
    assert {name: data for name, data in after.items() if name not in WRITTEN} == {
        name: data for name, data in before.items() if name not in WRITTEN
    }


@contextlib.contextmanager
def content(name: str, text: str) -> Iterator[None]:
    """A file of the run with this content, until the block ends."""
    (RUN / name).write_bytes(text.encode(errors="surrogatepass"))
    try:
        yield
    finally:
        (RUN / name).write_text(FILES[name])


@given(st.data())
@inputs(60)
def test_a_run_with_other_values(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(TREES)))
    tree = data.draw(changed(TREES[name]))
    if is_writable(tree):
        text = json.dumps(tree) if name.endswith(".json") else written(name, tree)
        with content(name, text):
            read_all()


@given(st.data())
@inputs(40)
def test_a_run_with_a_torn_file(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    with content(name, data.draw(torn([FILES[name]]))):
        read_all()
