"""The progress of a run in the terminal: a live bar on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from evomerge.report.heartbeat import Heartbeat
from evomerge.report.status import SearchStatus, StatusLines
from evomerge.searching import Leaderboard
from evomerge.terminal import duration, print_line

INTERVAL = 30.0  # seconds after which a line without news says how far a phase is, where there is no bar
DESCENT_INTERVAL = 10  # steps of a descent between two lines
NAME_WIDTH = 14  # of the first column of a line
BAR_WIDTH, BESIDE_BAR = 40, 42  # of the widest bar, and of all that stands beside it
ESTIMATED = "~"  # before a score that a race has estimated


class _LiveBar(Progress):
    """A bar with the status of the search below it."""

    status: Callable[[], list[str]] = staticmethod(list)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if parts := self.status():
            yield StatusLines(parts)


class Display:
    """A callback of the search that prints a line per generation and shows how far the current phase is.

    On a terminal there is a bar, with what the search has spent and saved below it. Elsewhere a line is printed
    whenever `interval` seconds have passed without one, in every phase and also while a single chunk takes longer.
    `started` is the time of the monotonic clock at which the command began.
    """

    def __init__(
        self, console: Console, evaluations: int | None, interval: float = INTERVAL, started: float | None = None
    ) -> None:
        self._console = console
        self._max_evaluations = evaluations
        self._evaluations = self._stopped = 0
        self._best: tuple[str, float] | None = None
        self._best_baseline: tuple[str, float] | None = None
        self._status: Callable[[], SearchStatus] | None = None
        self._seconds_left: Callable[[], float | None] = lambda: None
        self._start = time.monotonic() if started is None else started
        self._phase, self._done, self._total, self._unit = "libraries", 0, 0, "chunks"
        self._seconds: dict[str, float] = {}  # of each phase that has ended
        self._begun = self._start
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=max(10, min(BAR_WIDTH, console.width - BESIDE_BAR))),
            TextColumn("{task.completed}/{task.total}"),
        )
        self._progress = _LiveBar(
            *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._progress.status = self._status_parts
        self._bar = self._progress.add_task(self._phase, total=None)
        self._heartbeat = Heartbeat(interval, self._print_state)

    def __enter__(self) -> "Display":
        self._progress.start()
        if not self._console.is_terminal:
            self._heartbeat.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._heartbeat.stop()
        self._progress.stop()

    def print_line(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self._heartbeat.reset()
        print_line(self._console, line)

    def show_time_left(self, seconds_left: Callable[[], float | None]) -> None:
        """Show the time left in each line; `seconds_left` returns None while it is unknown."""
        self._seconds_left = seconds_left

    def show_status(self, status: Callable[[], SearchStatus]) -> None:
        """Show items, times and workers below the bar of a terminal; `status` returns their numbers."""
        self._status = status

    def work(self, done: int, total: int) -> None:
        """Show `done` of `total` chunks."""
        self._show(done, total, "chunks")

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Print the line of a generation; generation 0 is the baselines.

        Where a race has stopped candidates, the scores of the generation are marked as estimates. The best score never
        is one.
        """
        self._evaluations += len(scores) if number else 0
        scored = [score for score in scores if not math.isnan(score)]
        best, best_score = board.best() or (None, math.nan)
        self._best = (best.label, best_score) if best else None
        if not number:
            self._best_baseline = self._best
        estimated = ESTIMATED if board.stopped_count > self._stopped else ""
        name = f"generation {number:3d}" if number else "baselines"
        mean = sum(scored) / len(scored) if scored else math.nan
        limit = "" if self._max_evaluations is None else f"/{self._max_evaluations}"
        self.print_line(
            f"{name:<{NAME_WIDTH}}  best {best_score:.4f} ({best.label if best else '-'})"
            f"  this generation {estimated}{max(scored, default=math.nan):.4f}"
            f" mean {estimated}{mean:.4f}  {self._evaluations}{limit} evaluations"
            f"  {'  '.join(self._notes(board, failed=len(scores) - len(scored)))}"
        )
        self.show_phase(f"generation {number + 1:3d}")

    def descent(self, step: int, loss: float) -> None:
        """Show a step of a descent; every tenth is a line where there is no bar."""
        self._enter("descent")
        self._show(step, 0, "steps", f"descent, loss {loss:.4f}")
        if step % DESCENT_INTERVAL == 1 and not self._console.is_terminal:
            self.print_line(f"descent {step:6d}  loss {loss:.4f}  {self._clock()}")

    def show_preparation(self, done: int, total: int) -> None:
        """Show `done` of `total` prepared tensors."""
        self._show(done, total, "tensors")

    def show_phase(self, name: str) -> None:
        """Show the name of the next phase of the run."""
        self._enter(name)
        self._show(0, 0, "chunks", name)

    def phase_seconds(self) -> dict[str, float]:
        """The seconds of each phase so far, in this command; generations are one phase."""
        self._enter(self._phase)
        return {name: round(seconds, 2) for name, seconds in self._seconds.items()}

    def _enter(self, phase: str) -> None:
        now, name = time.monotonic(), self._phase.rstrip(" 0123456789")
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._begun
        self._phase, self._begun = phase, now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show a phase within another one, such as the start of the workers within a generation."""
        before = self._phase
        self.show_phase(name)
        yield
        self.show_phase(before)

    def _show(self, done: int, total: int, unit: str, description: str | None = None) -> None:
        self._done, self._total, self._unit = done, total, unit
        self._progress.update(self._bar, description=description, completed=done, total=total or None)

    def _print_state(self) -> None:
        """The line of a phase that is still going on."""
        of = f"/{self._total}" if self._total else ""
        state = f"{self._done}{of} {self._unit}" if self._done or self._total else "…"
        self.print_line(f"{self._phase:<{NAME_WIDTH}}  {state}  {self._clock()}")

    def _status_parts(self) -> list[str]:
        """What is shown below the bar: the best score against the best baseline, the status, and the time left."""
        parts = []
        if self._best and self._best_baseline:
            label, score = self._best_baseline
            lead = f", {self._best[1] - score:+.4f} on {label}" if self._best[0] != label else ""
            parts.append(f"best {self._best[1]:.4f} ({self._best[0]}){lead}")
        parts += self._status().parts() if self._status else []
        left = self._seconds_left()
        return [*parts, *([] if left is None else [f"about {duration(left)} left"])]

    def _notes(self, board: Leaderboard, failed: int) -> list[str]:
        """What happened in the generation, then the time."""
        stopped, self._stopped = board.stopped_count - self._stopped, board.stopped_count
        notes = [f"{stopped} stopped early"] * (stopped > 0) + [f"{failed} failed"] * (failed > 0)
        return [*notes, self._clock()]

    def _clock(self) -> str:
        """The elapsed time, and the time left if it is known."""
        elapsed, left = duration(time.monotonic() - self._start), self._seconds_left()
        return elapsed if left is None else f"{elapsed}, about {duration(left)} left"
