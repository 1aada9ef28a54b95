"""`Tracker`, the callback of the search, and the protocol of the library backends behind it."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from evomerge.searching import Leaderboard

logger = logging.getLogger(__name__)

Table = Sequence[Sequence[str | float]]  # rows of cells; the first row is the heads


class Backend(Protocol):
    """The object that `create` returns in each file of this folder."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of one generation, or of a step of a descent; a step that is logged again has the same."""

    def log_result(self, document: Mapping[str, Any], table: Table) -> None:
        """Log the contents of result.json; `table` has its holdout scores, with the heads in the first row."""

    def close(self) -> None:
        """Write everything that is pending; called once, also after a search that failed."""


class Tracker:
    """A callback of the search that forwards to a backend; the first error disables the backend with a warning."""

    def __init__(self, name: str, create_backend: Callable[[], Backend] | None) -> None:
        self._name, self._evaluations, self._descended = name, 0, 0
        self._backend: Backend | None = None
        if create_backend:
            self._catch_errors(lambda: self._start(create_backend))

    def work(self, done: int, total: int) -> None:
        """Does nothing: trackers log whole generations."""

    def descent(self, step: int, loss: float) -> None:
        """Log the loss of a step of the descent, which comes between the baselines and the first generation."""
        self._descended = step
        if backend := self._backend:
            self._catch_errors(lambda: backend.log(step, {"descent/loss": loss}))

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Log the generation at step `number`, counted from the end of the descent."""
        self._evaluations += len(scores) if number else 0
        if backend := self._backend:
            metrics = generation_metrics(board, scores, self._evaluations)
            step = self._descended + number
            self._catch_errors(lambda: backend.log(step, metrics))

    def finish(self, document: Mapping[str, Any]) -> None:
        """Log the result of a finished search; `document` is the contents of result.json."""
        if backend := self._backend:
            self._catch_errors(lambda: backend.log_result(document, holdout_table(document)))

    def close(self) -> None:
        """Close the backend; a second call does nothing."""
        if backend := self._backend:
            self._catch_errors(backend.close)
        self._backend = None

    def _start(self, create_backend: Callable[[], Backend]) -> None:
        self._backend = create_backend()

    def _catch_errors(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # errors of a library, the network or the disk must not stop the search
            reason = " ".join(str(error).split()) or type(error).__name__
            logger.warning("tracker %s failed and is not used from here on: %s", self._name, reason)
            self._backend = None


def generation_metrics(board: Leaderboard, scores: Sequence[float], evaluations: int) -> dict[str, float]:
    """The numbers of a generation; best and mean are absent if every candidate failed."""
    scored = [score for score in scores if not math.isnan(score)]
    best = board.best()
    metrics = {
        "search/best": best[1] if best else math.nan,
        "search/generation_best": max(scored, default=math.nan),
        "search/generation_mean": sum(scored) / len(scored) if scored else math.nan,
        "search/evaluations": float(evaluations),
        "search/failed": float(board.failed),
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def holdout_table(document: Mapping[str, Any]) -> list[list[str | float]]:
    """A row of heads, then a row for each model: label, holdout score and task scores; NaN where it failed."""
    tasks = list(document["rows"][-1]["tasks"])
    table: list[list[str | float]] = [["model", "holdout", *tasks]]
    for row in document["rows"]:
        label = "winner" if row["role"] == "winner" else row["label"]
        table.append([label, row["scores"]["holdout"], *(row["tasks"].get(task, math.nan) for task in tasks)])
    return table
