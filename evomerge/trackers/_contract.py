"""The listener of a search that every tracker is, around what its own library does."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from evomerge.searching import Leaderboard

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """What `create` in each file of this folder returns."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one generation; a step that was logged before is the same again."""

    def result(self, document: Mapping[str, Any], table: Sequence[Sequence[str | float]]) -> None:
        """What result.json holds, and its holdout scores as a table whose first row is the heads."""

    def close(self) -> None:
        """Write what is left; called once, also after a search that failed."""


class Tracker:
    """A listener of the search that passes on to a backend, until that fails."""

    def __init__(self, name: str, make: Callable[[], Backend] | None) -> None:
        self._name, self._asked = name, 0
        self._backend: Backend | None = None
        if make:
            self._safely(lambda: self._begin(make))

    def work(self, done: int, total: int) -> None:
        """Nothing between generations."""

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Log the generation at step `number`."""
        self._asked += len(scores) if number else 0
        if backend := self._backend:
            self._safely(lambda: backend.log(number, measures(board, scores, self._asked)))

    def finish(self, document: Mapping[str, Any]) -> None:
        """Log the holdout table of a finished search."""
        if backend := self._backend:
            self._safely(lambda: backend.result(document, holdout_table(document)))

    def close(self) -> None:
        """End the backend's run; harmless when repeated."""
        if backend := self._backend:
            self._safely(backend.close)
        self._backend = None

    def _begin(self, make: Callable[[], Backend]) -> None:
        self._backend = make()

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a third party's bug, network or disk must not cost the search
            reason = " ".join(str(error).split()) or type(error).__name__
            logger.warning("tracker %s failed and is left out from here on: %s", self._name, reason)
            self._backend = None


def measures(board: Leaderboard, scores: Sequence[float], asked: int) -> dict[str, float]:
    """The numbers of a generation; those that have no value, because every candidate failed, are left out."""
    good = [score for score in scores if not math.isnan(score)]
    ranked = board.ranked()
    found = {
        "search/best": ranked[0][1] if ranked else math.nan,
        "search/generation_best": max(good, default=math.nan),
        "search/generation_mean": sum(good) / len(good) if good else math.nan,
        "search/evaluations": float(asked),
        "search/failed": float(len(board.failures())),
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def holdout_table(document: Mapping[str, Any]) -> list[list[str | float]]:
    """Heads, then a row for each model: label, holdout score, its tasks; NaN where it failed."""
    tasks = list(document["rows"][-1]["tasks"])
    table: list[list[str | float]] = [["model", "holdout", *tasks]]
    for row in document["rows"]:
        label = "winner" if row["role"] == "winner" else row["label"]
        table.append([label, row["scores"]["holdout"], *(row["tasks"].get(task, math.nan) for task in tasks)])
    return table
