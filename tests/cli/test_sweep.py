"""A sweep whose searches run at the same time, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from evomerge.cli import sweep
from evomerge.cli.sweep import SweptSearch, run_at_once, split_at_once
from evomerge.errors import ConfigError
from evomerge.paths import CONFIG
from tests.conftest import ROOT, Command

SMALL = ("+experiment=quickstart", "scorer.slices={search: 4, select: 4, holdout: 4}", "budget.evaluations=4")
PARENT = """
import os, sys, time
from pathlib import Path
from rich.console import Console
from evomerge.cli.sweep import run_at_once
from tests.cli.test_sweep import Program
run_at_once([Program(sys.argv[1], Path(sys.argv[2]))], 1, Console())
"""
CHILD = """
import os, sys, time
from evomerge.cli.sweep import end_with_parent
end_with_parent()
open(sys.argv[1], "w").write(str(os.getpid()))
try:
    time.sleep(100)
except KeyboardInterrupt:
    open(sys.argv[1], "w").write("interrupted")
"""


class Program(SweptSearch):
    """A search that is any program instead."""

    def __init__(self, text: str, folder: Path) -> None:
        super().__init__((text,), {"pool": {"name": "local"}}, folder)

    def command(self) -> list[str]:
        return [sys.executable, "-c", *self.overrides, str(self.folder / "state")]


@pytest.mark.parametrize(
    ("given", "others", "at_once"),
    [
        (["-m", "seed=1,2"], ["-m", "seed=1,2"], 1),
        (["-m", "--at-once", "3", "seed=1,2"], ["-m", "seed=1,2"], 3),
        (["--at-once=2", "--multirun"], ["--multirun"], 2),
    ],
)
def test_the_option_is_taken_from_those_of_hydra(given: list[str], others: list[str], at_once: int) -> None:
    assert split_at_once(given) == (others, at_once)


@pytest.mark.parametrize(
    "given",
    [
        ["-m", "--at-once"],
        ["-m", "--at-once", "0"],
        ["-m", "--at-once=x"],
        ["-m", "--at-once=²"],
        ["--at-once", "2"],
        ["-m", "--at-once=2", "--config-name=x"],
    ],
)
def test_a_wrong_number_or_no_sweep_is_one_line(given: list[str]) -> None:
    with pytest.raises(ConfigError, match="--at-once"):
        split_at_once(given)


def test_a_folder_with_an_apostrophe_is_an_override_that_hydra_reads() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    folder = Path("runs/it's, a=b")
    *_, text = SweptSearch(("seed=1",), {}, folder).command()
    assert OverridesParser.create().parse_override(text).value() == str(folder)


def test_not_more_than_asked_run_at_a_time_and_a_failure_ends_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"""
import sys, time
from pathlib import Path
log = Path({str(tmp_path / "log")!r}).open("ab", buffering=0)
log.write(b"+")
time.sleep(0.3)
log.write(b"-")
Path(sys.argv[1]).with_name({CONFIG!r}).touch()
if sys.argv[1].endswith("1/state"):
    sys.exit("evomerge: no such thing")
"""
    searches = [Program(text, tmp_path / str(number)) for number in range(5)]
    assert run_at_once(searches, 2, Console(width=200)) == 1
    running = most = 0
    for sign in (tmp_path / "log").read_text():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    said = capsys.readouterr()
    assert (running, most <= 2) == (0, True)
    assert [line[:6] for line in said.out.splitlines()[:2]] == ["begins", "begins"]
    assert said.out.count("ended: ") == 4 and said.err == f"evomerge: {tmp_path}/1: no such thing\n"


def test_a_search_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    assert run_at_once([Program("import sys; sys.exit(2)", tmp_path / "name" / "seed=1")], 1, Console()) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_reaches_the_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "run" / "state"

    def interrupt_when_it_runs(seconds: float) -> None:
        if state.exists() and state.read_text():
            raise KeyboardInterrupt
        time.sleep(seconds)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    clock = type(
        "Clock", (), {"sleep": staticmethod(interrupt_when_it_runs), "monotonic": staticmethod(time.monotonic)}
    )
    monkeypatch.setattr(sweep, "time", clock)
    with pytest.raises(KeyboardInterrupt):
        run_at_once([Program(CHILD, tmp_path / "run")], 1, Console())
    assert state.read_text() == "interrupted"


def test_no_search_outlives_a_killed_sweep(tmp_path: Path) -> None:
    state = tmp_path / "run" / "state"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(tmp_path / "run")], env=environment)
    wait_until(lambda: state.exists() and state.read_text().isdigit())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: state.read_text() == "interrupted")


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_searches_at_the_same_time_find_what_they_find_alone(command: Command, tmp_path: Path) -> None:
    assert command("-m", *SMALL, "seed=1,2", "name=apart").code == 0
    said = command("-m", "--at-once", "2", *SMALL, "seed=1,2", "name=together")
    assert said.code == 0, said
    assert "2 runs" in said.out and said.out.count("ended: runs/together") == 2
    pairs = [sorted((tmp_path / "runs" / name).rglob("recipe.yaml")) for name in ("apart", "together")]
    assert len(pairs[0]) == 2 and [p.read_bytes() for p in pairs[0]] == [p.read_bytes() for p in pairs[1]]


@pytest.mark.slow
@pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning", "default::FutureWarning")
def test_searches_of_a_sweep_share_one_ray(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    said = command("-m", "--at-once", "2", *SMALL, "seed=1,2", "pool=ray", "pool.workers=2")
    assert said.code == 0, said
    logs = [path.read_text() for path in (tmp_path / "runs").rglob("console.log")]
    assert len(logs) == 2 and all("recipe: runs" in text for text in logs)
