"""The progress of a run in the terminal: a live bar on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from evomerge.searching import Leaderboard

PREPARATION_INTERVAL = 30.0  # seconds between two lines of a long preparation

DESCENT_INTERVAL = 10  # steps of a descent between two lines


class Display:
    """A callback of the search that prints a line per generation and, on a terminal, a bar for the current one."""

    def __init__(self, console: Console, evaluations: int | None) -> None:
        self._console = console
        self._max_evaluations = evaluations
        self._evaluations = self._preparation_lines = self._stopped = 0
        self._seconds_left: Callable[[], float | None] = lambda: None
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

    def print_line(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show_time_left(self, seconds_left: Callable[[], float | None]) -> None:
        """Show the time left after each generation; `seconds_left` returns None while it is unknown."""
        self._seconds_left = seconds_left

    def work(self, done: int, total: int) -> None:
        """Update the bar to `done` of `total` chunks."""
        self._progress.update(self._bar, completed=done, total=total)

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Print the line of a generation; generation 0 is the baselines."""
        self._evaluations += len(scores) if number else 0
        scored = [score for score in scores if not math.isnan(score)]
        ranked = board.ranked()
        best, best_score = ranked[0] if ranked else (None, math.nan)
        name = f"generation {number:3d}" if number else "baselines     "
        mean = sum(scored) / len(scored) if scored else math.nan
        limit = "" if self._max_evaluations is None else f"/{self._max_evaluations}"
        self._console.print(
            f"{name}  best {best_score:.4f} ({best.label if best else '-'})"
            f"  this generation {max(scored, default=math.nan):.4f}"
            f" mean {mean:.4f}  {self._evaluations}{limit} evaluations"
            f"  {'  '.join(self._notes(board, failed=len(scores) - len(scored)))}",
            highlight=False,
            soft_wrap=True,
        )
        self._progress.update(self._bar, description=f"generation {number + 1}", completed=0, total=None)

    def descent(self, step: int, loss: float) -> None:
        """Show a step of a descent at the bar; every tenth is a line where there is no bar."""
        self._progress.update(self._bar, description=f"descent, loss {loss:.4f}", completed=step, total=None)
        if step % DESCENT_INTERVAL == 1 and not self._console.is_terminal:
            elapsed = _duration(time.monotonic() - self._start)
            self._console.print(f"descent {step:6d}  loss {loss:.4f}  {elapsed}", highlight=False)

    def show_preparation(self, done: int, total: int) -> None:
        """Update the bar to `done` of `total` prepared tensors; without a bar, print a line every 30 seconds."""
        self._progress.update(self._bar, description="prepare, tensors", completed=done, total=total)
        due = time.monotonic() - self._start > PREPARATION_INTERVAL * (1 + self._preparation_lines)
        if due and not self._console.is_terminal:
            self._preparation_lines += 1
            self._console.print(f"prepare        {done}/{total} tensors", highlight=False)

    def show_phase(self, name: str) -> None:
        """Show the name of the next phase of the run at the bar."""
        self._progress.update(self._bar, description=name, completed=0, total=None)

    def _notes(self, board: Leaderboard, failed: int) -> list[str]:
        """The elapsed time, then what happened in the generation, then the time left."""
        stopped, self._stopped = len(board.stopped()) - self._stopped, len(board.stopped())
        notes = [_duration(time.monotonic() - self._start)]
        notes += [f"{stopped} stopped early"] * (stopped > 0) + [f"{failed} failed"] * (failed > 0)
        seconds_left = self._seconds_left()
        return notes if seconds_left is None else [*notes, f"about {_duration(seconds_left)} left"]


def _duration(seconds: float) -> str:
    """The duration in the largest unit that keeps two digits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
