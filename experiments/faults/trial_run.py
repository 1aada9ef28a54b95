"""A small search on the quickstart's family, run in a forked child that a fault can be injected into."""

import importlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evomerge.cli import main
from evomerge.paths import PACKAGE
from evomerge.workers import Worker
from evomerge.workers.pools._crew import Crew

QUICKSTART = PACKAGE.parent / "experiments" / "quickstart"
SKILLS = ("copy", "shift", "last", "max")
EXPERTS = SKILLS[1:]
MODULES = "modules"
ATTEMPTS = "attempts"  # one byte for each chunk that a worker has begun
FILES = ("experiment.yaml", "child.log", ATTEMPTS, MODULES)  # of a trial itself, in its folder
REFUSED, CRASHED = (1, 2), 4  # exit codes of a child: one line, or a traceback


@dataclass(frozen=True)
class Place:
    """The folders of one trial: its models, its run, the cache, and the merged model."""

    root: Path

    @property
    def models(self) -> Path:
        """Base and experts, copied so that they can be damaged."""
        return self.root / "models"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.root / "run"

    @property
    def cache(self) -> Path:
        """EVOMERGE_CACHE."""
        return self.root / "cache"

    @property
    def merged(self) -> Path:
        """The exported model."""
        return self.root / "exported" / "merged"

    @property
    def experiment(self) -> Path:
        """The experiment file."""
        return self.root / "experiment.yaml"

    def config(self) -> dict[str, Any]:
        """TIES, so that there are tables to prepare; a race, chunks and generations, all as small as they can be."""
        return {
            "name": "faults",
            "base": str(self.models / "base"),
            "experts": {name: str(self.models / name) for name in EXPERTS},
            "method": "ties",
            "model": {"dtype": "float32", "device": "cpu", "batch_size": 256, "compile": "never"},
            "scorer": {
                "slices": {"search": 4, "select": 4, "holdout": 4},
                "chunk_items": 8,
                "tasks": [{"name": name, "file": str(QUICKSTART / "data" / f"{name}.jsonl")} for name in SKILLS],
            },
            "optimizer": {"name": "cma", "population": 4},
            "race": {"least": 8},
            "finalise": {"top": 2},
            "budget": {"evaluations": 12},
        }


def new_place(root: Path, changes: Iterable[tuple[str, Any]] = ()) -> Place:
    """A place with undamaged models; what was there before is deleted. `changes` are keys of the configuration."""
    shutil.rmtree(root, ignore_errors=True)
    place = Place(root)
    shutil.copytree(QUICKSTART / "family", place.models)
    place.merged.parent.mkdir()
    place.experiment.write_text(yaml.safe_dump(place.config() | dict(changes)), encoding="utf-8")
    return place


@dataclass
class Ended:
    """How a child has ended: its exit code, negative for a signal, and the last line that it wrote."""

    code: int
    seconds: float
    line: str = ""
    attempts: int = 0
    is_hit: bool = False  # whether a fault has met a search that was running


def run_child(
    place: Place,
    prepare: Callable[[], object] = lambda: None,
    meddle: Callable[[int], bool] | None = None,
    at_end: Callable[[], object] = lambda: None,
) -> Ended:
    """Search and export in a forked child; `prepare` and `at_end` run in it, `meddle` gets its process id."""
    log, start = place.root / "child.log", time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(place, log, prepare, at_end)
    is_hit = meddle(pid) if meddle else False
    _, status = os.waitpid(pid, 0)
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    counter = place.root / ATTEMPTS
    attempts = counter.stat().st_size if counter.exists() else 0
    code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - start
    return Ended(code, seconds, text.rpartition("\n")[2], attempts, is_hit or code != 0)


def is_running(pid: int) -> bool:
    """Whether a child has not ended yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def wait_for_lines(place: Place, pid: int, lines: int) -> bool:
    """Wait until the ledger has so many lines; False if the child ends before."""
    ledger = place.run / "trials.jsonl"
    while is_running(pid):
        if ledger.exists() and ledger.read_bytes().count(b"\n") >= lines:
            return True
        time.sleep(0.02)
    return False


def load_libraries(root: Path) -> None:
    """Import what a search imports, so that the children that are forked later need not."""
    place = new_place(root)
    run_child(place, at_end=lambda: (root / MODULES).write_text("\n".join(sys.modules)))
    for name in (root / MODULES).read_text().split("\n"):
        if name not in sys.modules:
            importlib.import_module(name)


def _child(place: Place, log: Path, prepare: Callable[[], object], at_end: Callable[[], object]) -> None:
    """Run the search in this process and exit; never returns."""
    code = CRASHED
    try:
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        os.environ["EVOMERGE_CACHE"] = str(place.cache)
        _count_attempts(place.root / ATTEMPTS)
        prepare()
        code = _command(str(place.experiment), "--out", str(place.run))
        if code == 0 and not place.merged.exists():
            code = _command("merge", str(place.run / "recipe.yaml"), str(place.merged))
        at_end()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(*arguments: str) -> int:
    """The exit code of a command of the program."""
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("the program ends by an exit")


def _count_attempts(path: Path) -> None:
    """Note each chunk that a worker begins, or is given on Ray, in a file that outlives the process."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    attempt, give = Worker.attempt, Crew.give

    def counted(self: Worker, job: Any) -> Any:
        os.write(descriptor, b".")
        return attempt(self, job)

    def counted_given(self: Crew, member: Any, job: Any, queue: Any, tries: int) -> None:
        os.write(descriptor, b".")
        give(self, member, job, queue, tries)

    Worker.attempt, Crew.give = counted, counted_given  # type: ignore[method-assign]


def limit_file_size(size: int) -> None:
    """Let every write beyond this size of a file fail, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
