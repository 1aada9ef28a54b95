"""`Tracker`, the callback of the search, and the protocol of the library backends behind it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from evomerge.searching import Leaderboard
from evomerge.trackers._calls import LIMIT, TrackerCalls
from evomerge.trackers._metrics import Table, generation_metrics, holdout_table


class Backend(Protocol):
    """The object that `create` returns in each file of this folder; all its methods are called in one thread."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of one generation, or of a step of a descent; a step that is logged again has the same."""

    def log_result(self, document: Mapping[str, Any], table: Table) -> None:
        """Log the contents of result.json; `table` has its holdout scores, with the heads in the first row."""

    def log_files(self, files: Sequence[Path]) -> None:
        """Store the recipe and the report, if the library stores files."""

    def close(self) -> None:
        """Write everything that is pending; called once, also after a search that failed."""


class Tracker:
    """A callback of the search that forwards to a backend; the first error disables the backend with a warning.

    The backend is created and called in a thread of its own, in the order of the calls. A call that takes longer than
    `limit` seconds disables it too.
    """

    def __init__(self, name: str, create_backend: Callable[[], Backend] | None, limit: float = LIMIT) -> None:
        self._evaluations = self._descended = 0
        self._best_baseline = math.nan
        self._items: Callable[[], float] = lambda: math.nan
        self._backend: Backend | None = None
        self._calls: TrackerCalls | None = None
        if create_backend:
            self._calls = TrackerCalls(name, limit)
            self._calls.add(lambda: self._start(create_backend))

    def count_items(self, spent: Callable[[], float]) -> None:
        """Log the items that the search has spent; `spent` returns their number."""
        self._items = spent

    def work(self, done: int, total: int) -> None:
        """Does nothing: trackers log whole generations."""

    def descent(self, step: int, loss: float) -> None:
        """Log the loss of a step of the descent, which comes between the baselines and the first generation."""
        self._descended = step
        self._call(lambda backend: backend.log(step, {"descent/loss": loss}))

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Log the generation at step `number`, counted from the end of the descent."""
        self._evaluations += len(scores) if number else 0
        if not number and (best := board.best()):
            self._best_baseline = best[1]
        metrics = generation_metrics(board, scores, self._evaluations, self._items(), self._best_baseline)
        step = self._descended + number
        self._call(lambda backend: backend.log(step, metrics))

    def finish(self, document: Mapping[str, Any]) -> None:
        """Log the result of a finished search; `document` is the contents of result.json."""
        self._call(lambda backend: backend.log_result(document, holdout_table(document)))

    def log_files(self, files: Sequence[Path]) -> None:
        """Store files of the run, those that are there."""
        self._call(lambda backend: backend.log_files([file for file in files if file.is_file()]))

    def close(self) -> None:
        """Close the backend after all calls; a second call does nothing."""
        calls, self._calls = self._calls, None
        if calls:
            calls.add(self._close)
            calls.finish()

    def _start(self, create_backend: Callable[[], Backend]) -> None:
        self._backend = create_backend()

    def _close(self) -> None:
        if self._backend:
            self._backend.close()

    def _call(self, action: Callable[[Backend], None]) -> None:
        if self._calls:
            self._calls.add(lambda: action(self._backend) if self._backend else None)
