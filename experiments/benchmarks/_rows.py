"""What the benchmarks share: contestants in turn, medians with their spread, rows, a table, a JSON file.

A contestant runs one repeat and returns its seconds, so that it may measure itself in another process.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import evomerge

Row = dict[str, Any]
Contestant = Callable[[int], float]
ROOT = Path(__file__).parents[2]
LEAST = 2  # repeats of a contestant that is over its time limit: fewer have no spread


class Skip(Exception):
    """A contestant cannot take part; the message is the reason that its row states."""


def timed(action: Callable[[], object], device: str) -> float:
    """Wall-clock seconds of one call, with the device's queue empty before and after."""
    synchronize(device)
    start = perf_counter()
    action()
    synchronize(device)
    return perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for an accelerator; nothing on a CPU."""
    if device != "cpu":
        torch.cuda.synchronize(device)


class Race:
    """Every contestant once per round, in the same order, so that a slower minute of the machine meets all of them.

    `seconds[name][k]` belongs to round k; `notes[name]` is why a contestant has left.
    """

    def __init__(self, repeats: int, limit: float, *, warm_up: bool = True) -> None:
        self.repeats, self.limit, self.warm_up = repeats, limit, warm_up
        self.seconds: dict[str, list[float]] = {}
        self.notes: dict[str, str] = {}
        self._spent: dict[str, float] = {}

    def run(self, contestants: Mapping[str, Contestant]) -> "Race":
        """The warm-up, then the repeats; a contestant over `limit` seconds in total sits out after LEAST repeats."""
        for turn in range(0 if self.warm_up else 1, self.repeats + 1):
            for name, contestant in contestants.items():
                if self._takes_part(name):
                    self._run(name, contestant, turn)
        return self

    def _takes_part(self, name: str) -> bool:
        done = len(self.seconds.setdefault(name, [])) >= LEAST and self._spent[name] > self.limit
        return not done and name not in self.notes

    def _run(self, name: str, contestant: Contestant, turn: int) -> None:
        try:
            seconds = contestant(turn)
        except Skip as reason:
            self.notes[name] = str(reason)
            return
        self._spent[name] = self._spent.get(name, 0.0) + seconds
        if turn:
            self.seconds[name].append(seconds)

    def row(self, name: str, reference: str) -> Row:
        """Median seconds, and the median of the ratios to `reference` round by round, each with lowest and highest."""
        mine, theirs = self.seconds.get(name, []), self.seconds.get(reference, [])
        ratios = [a / b for a, b in zip(mine, theirs, strict=False)]
        found: Row = {"name": name, "repeats": len(mine), "seconds": None, "spread": None}
        found |= {"ratio": None, "ratio_spread": None, "note": self.notes.get(name)}
        if mine:
            found |= {"seconds": statistics.median(mine), "spread": [min(mine), max(mine)]}
        if ratios:
            found |= {"ratio": statistics.median(ratios), "ratio_spread": [min(ratios), max(ratios)]}
        return found


def environment(device: str, threads: int, **versions: str) -> dict[str, Any]:
    """What a number depends on besides the code under test: commit, libraries, processor, threads."""
    return {
        "commit": _commit(),
        "evomerge": evomerge.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **versions,
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(device),
    }


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive, a machine without git
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_json(rows: Sequence[Row], path: Path, environment: Mapping[str, Any]) -> None:
    """A list of rows, each with the environment, so that rows of several runs can lie in one file."""
    path.write_text(json.dumps([row | {"environment": dict(environment)} for row in rows], indent=1) + "\n")


def print_table(title: str, columns: Mapping[str, Callable[[Row], str]], rows: Sequence[Row]) -> None:
    """One table on the terminal; rows of one `group` stand together, and only the first one says what it is about."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    groups = [row["group"] for row in rows]
    for row, before, after in zip(rows, [None, *groups], [*groups[1:], None], strict=False):
        first, *others = (cell(row) for cell in columns.values())
        table.add_row("" if before == row["group"] else first, *others, end_section=after != row["group"])
    terminal = Console()
    # Piped output has no width of its own, and 80 columns would break every line.
    (terminal if terminal.is_terminal else Console(width=160)).print(table)


def seconds_cell(row: Row) -> str:
    """The median and its spread, or why there is none."""
    if row["seconds"] is None:
        return str(row["note"] or "–")
    return f"{row['seconds']:.3g} [{row['spread'][0]:.3g}–{row['spread'][1]:.3g}]"


def ratio_cell(row: Row) -> str:
    """The ratio and its spread; empty where there is nothing to compare with."""
    if row["ratio"] is None:
        return ""
    if row["ratio_spread"] == [1.0, 1.0]:
        return "1"
    return f"{row['ratio']:.3g} [{row['ratio_spread'][0]:.3g}–{row['ratio_spread'][1]:.3g}]"
