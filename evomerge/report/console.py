"""The terminal: live progress where there is one, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from evomerge.searching import Leaderboard

PATIENCE = 30.0  # seconds between two lines of a long preparation


class Display:
    """One line per generation, and on a terminal a bar for the chunks of the present one."""

    def __init__(self, console: Console, evaluations: int | None) -> None:
        self._console = console
        self._evaluations = evaluations
        self._asked = self._told = self._stopped = 0
        self._left: Callable[[], float | None] = lambda: None
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

    def show_time_left(self, left: Callable[[], float | None]) -> None:
        """Ask this for the seconds that are left, as far as they are known, after each generation."""
        self._left = left

    def work(self, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=done, total=total)

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Print the generation's line."""
        self._asked += len(scores) if number else 0
        good = [score for score in scores if not math.isnan(score)]
        best, top = board.ranked()[0] if good or board.ranked() else (None, math.nan)
        stopped, self._stopped = len(board.stopped()) - self._stopped, len(board.stopped())
        notes = [f"{stopped} stopped early"] * (stopped > 0) + [f"{len(scores) - len(good)} failed"] * (good != scores)
        left = self._left()
        notes += [] if left is None else [f"about {_duration(left)} left"]
        what = f"generation {number:3d}" if number else "baselines     "
        mean = sum(good) / len(good) if good else math.nan
        of = "" if self._evaluations is None else f"/{self._evaluations}"
        self._console.print(
            f"{what}  best {top:.4f} ({best.label if best else '-'})  this generation {max(good, default=math.nan):.4f}"
            f" mean {mean:.4f}  {self._asked}{of} evaluations"
            f"  {'  '.join([_duration(time.monotonic() - self._start), *notes])}",
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


def _duration(seconds: float) -> str:
    """In the unit that one would say."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
