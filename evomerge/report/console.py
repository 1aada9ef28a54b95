"""The terminal: live progress where there is one, plain lines elsewhere, and the result table."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evomerge.search import Board

VERDICTS = {
    "better": "better than the best baseline",
    "tie": "a tie with the best baseline",
    "worse": "worse than the best baseline",
}

PATIENCE = 30.0  # seconds between two lines of a long preparation


class Display:
    """One line per generation, and on a terminal a bar for the chunks of the present one."""

    def __init__(self, console: Console, evaluations: int) -> None:
        self._console = console
        self._evaluations = evaluations
        self._asked = self._told = 0
        self._start = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
        )
        self._progress = Progress(
            *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._bar = self._progress.add_task("baselines", total=None)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def work(self, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=done, total=total)

    def generation(self, number: int, board: Board, scores: Sequence[float]) -> None:
        """Print the generation's line."""
        self._asked += len(scores) if number else 0
        good = [score for score in scores if not math.isnan(score)]
        best, top = board.ranked()[0] if good or board.ranked() else (None, math.nan)
        failed = f"  {len(scores) - len(good)} failed" if len(good) < len(scores) else ""
        what = f"generation {number:3d}" if number else "baselines     "
        mean = sum(good) / len(good) if good else math.nan
        self._console.print(
            f"{what}  best {top:.4f} ({best.label if best else '-'})  this generation {max(good, default=math.nan):.4f}"
            f" mean {mean:.4f}  {self._asked}/{self._evaluations} evaluations"
            f"  {time.monotonic() - self._start:.0f} s{failed}",
            highlight=False,
            soft_wrap=True,
        )
        self._progress.update(self._bar, description=f"generation {number + 1}", completed=0, total=None)

    def prepared(self, done: int, total: int) -> None:
        """Move the bar over the tensors of what is prepared once; a line where there is no bar and it takes long."""
        self._progress.update(self._bar, description="prepare, tensors", completed=done, total=total)
        slow = time.monotonic() - self._start > PATIENCE * (1 + self._told)
        if slow and not self._console.is_terminal:
            self._told += 1
            self._console.print(f"prepare        {done}/{total} tensors", highlight=False)

    def phase(self, name: str) -> None:
        """Say what comes after the search."""
        self._progress.update(self._bar, description=name, completed=0, total=None)


def result_table(result: Mapping[str, Any]) -> Table:
    """The rows of result.json: baselines and winner on every slice, the winner's tasks on holdout."""
    tasks = list(result["rows"][-1]["tasks"])
    table = Table(caption=claim(result), caption_justify="left", caption_style="")
    table.add_column("model")
    for name in ("search", "select", "holdout"):
        table.add_column(name, justify="right")
    for task in tasks:
        table.add_column(f"{task}", justify="right", style="dim")
    for row in result["rows"]:
        cells = [row["scores"][name] for name in ("search", "select", "holdout")]
        style = "bold" if row["role"] == "winner" else ""
        label = row["label"] if row["role"] == "baseline" else winner_label(row["label"])
        table.add_row(label, *map(number, cells), *(number(row["tasks"].get(task)) for task in tasks), style=style)
    return table


def claim(result: Mapping[str, Any]) -> str:
    """The one sentence that the run supports."""
    if result["rows"][-1]["label"] == result["best_baseline"]:
        return f"The search found nothing better than a baseline: the winner is {result['best_baseline']}"
    interval = result["interval"]
    span = f"[{interval['low']:+.4f}, {interval['high']:+.4f}]"
    looks = result.get("counts", {}).get("holdout_looks", 1)
    again = f"; the holdout was looked at {looks} times" if looks > 1 else ""
    return (
        f"On holdout the winner is {VERDICTS[result['verdict']]} ({result['best_baseline']}): "
        f"{result['difference']:+.4f}, {interval['level']:.0%} interval {span}{again}"
    )


def number(value: float | None) -> str:
    """A score for a table cell."""
    return "failed" if value is None or math.isnan(value) else f"{value:.4f}"


def winner_label(label: str) -> str:
    """The winner's name in a table: which baseline it is, where it is one."""
    return "winner" if label == "winner" else f"winner (= {label})"
