"""The searches of a sweep, several at a time: each in a process of its own, all on one Ray where they use Ray."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evomerge.cli.messages import complain
from evomerge.errors import ConfigError
from evomerge.paths import CONFIG
from evomerge.terminal import duration, print_line

OPTION = "--at-once"
OUTPUT = "console.log"  # what a search would print on a terminal, in its folder
STDIN_IS_PARENT = "EVOMERGE_STDIN_IS_PARENT"
POLL, NEWS = 0.2, 60.0  # seconds between two looks at the processes, and between two lines about them
GRACE = 30.0  # seconds for an interrupted search to end
PATIENCE = 20.0  # seconds until a search without its parent, which was interrupted, kills itself; nothing is lost


@dataclass(frozen=True)
class SweptSearch:
    """One search of a sweep: its overrides, configuration and folder."""

    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    folder: Path

    def command(self) -> list[str]:
        """The command that runs this search alone."""
        folder = str(self.folder).replace("\\", "\\\\").replace("'", "\\'")
        return [sys.executable, "-m", "evomerge", *self.overrides, f"hydra.run.dir='{folder}'"]


def split_at_once(arguments: Sequence[str]) -> tuple[list[str], int]:
    """The other arguments, and the value of --at-once; ConfigError where it is no number or there is no sweep."""
    others, given = list(arguments), None
    for place, text in enumerate(arguments):
        if text == OPTION or text.startswith(f"{OPTION}="):
            following = arguments[place + 1 : place + 2] if text == OPTION else [text.partition("=")[2]]
            given = following[0] if following else ""
            del others[place : place + (2 if text == OPTION else 1)]
            break
    if given is None:
        return others, 1
    if not re.fullmatch(r"[1-9][0-9]{0,2}", given):
        raise ConfigError(f"{OPTION} {given}: give the number of searches that run at a time")
    if not {"-m", "--multirun"}.intersection(others):
        raise ConfigError(f"{OPTION}: only a sweep has several searches; add -m")
    for text in others:  # they are not overrides, so a search of its own would not get them
        if text.startswith("-") and text not in ("-m", "--multirun"):
            raise ConfigError(f"{OPTION}: goes without {text}; set EVOMERGE_CONF for another folder than conf/")
    return others, int(given)


def run_at_once(searches: Sequence[SweptSearch], at_once: int, console: Console) -> int:
    """Run the searches, `at_once` at a time; the largest exit code. A search that fails does not end the others."""
    codes: list[int] = []
    waiting, processes = list(searches), list[_Process]()
    with _shared_ray(searches) as environment, _ending(processes):
        news = time.monotonic() + NEWS
        while waiting or processes:
            while waiting and len(processes) < at_once:
                processes.append(_Process(waiting.pop(0), environment))
                print_line(console, f"begins: {processes[-1].search.folder}")
            time.sleep(POLL)
            for process in [one for one in processes if one.has_ended()]:
                processes.remove(process)
                codes.append(process.report(console))
            if time.monotonic() > news:
                news = time.monotonic() + NEWS
                print_line(console, f"{len(processes)} searches run, {len(codes)} have ended, {len(waiting)} wait")
    return max(codes, default=0)


@contextlib.contextmanager
def _ending(processes: Sequence["_Process"]) -> Iterator[None]:
    """On leaving, interrupt the searches that run, all at once, and wait until they have ended."""
    try:
        yield
    finally:
        for process in processes:
            process.interrupt()
        end = time.monotonic() + GRACE
        for process in processes:
            process.wait_until(end)


def end_with_parent() -> None:
    """Interrupt this process when its parent is gone, if it is a search of a sweep; no process outlives the sweep."""
    if not os.environ.pop(STDIN_IS_PARENT, None):
        return

    def watch() -> None:
        os.read(0, 1)  # ends with the parent, however that ends
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(PATIENCE)  # a Ray that has died with the parent may keep the main thread for a minute
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


class _Process:
    """The process of one search, in a session of its own."""

    def __init__(self, search: SweptSearch, environment: Mapping[str, str]) -> None:
        self.search, self._start = search, time.monotonic()
        search.folder.mkdir(parents=True, exist_ok=True)
        self._output = search.folder / OUTPUT
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                search.command(),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, STDIN_IS_PARENT: "1"},
                start_new_session=True,  # Ctrl-C reaches this process alone, which then closes its pipes
            )

    def interrupt(self) -> None:
        """Tell the search that its sweep has ended."""
        if self._process.stdin:
            self._process.stdin.close()

    def wait_until(self, end: float) -> None:
        """Wait for the process, and kill it with its children at this time of the monotonic clock."""
        try:
            self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def has_ended(self) -> bool:
        """Whether the search has ended by itself."""
        return self._process.poll() is not None

    def report(self, console: Console) -> int:
        """Print how the search has ended; its exit code, 1 for a signal."""
        self.interrupt()  # closes the pipe
        code, folder = self._process.returncode, self.search.folder
        if code == 0:
            print_line(console, f"ended: {folder} ({duration(time.monotonic() - self._start)})")
            return 0
        lines = self._output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = lines[-1].removeprefix("evomerge: ") if lines else f"signal {-code}"
        complain(f"{folder}: {reason}", code)
        if not (folder / CONFIG).exists():  # it was refused, and leaves nothing behind
            self._output.unlink()
            for place in (folder, folder.parent):
                with contextlib.suppress(OSError):
                    place.rmdir()
        return code if code > 0 else 1


@contextlib.contextmanager
def _shared_ray(searches: Sequence[SweptSearch]) -> Iterator[dict[str, str]]:
    """The environment of the searches: where they would each start a Ray of their own, it names one for all."""
    from evomerge.workers import pools

    sections = [search.config.get("pool") or {} for search in searches]
    addresses = {section.get("address") for section in sections if section.get("name") == "ray"}
    environment = dict(os.environ)
    if None not in addresses:
        yield environment
        return
    with pools.shared_ray() as variables:
        yield {**environment, **variables}
