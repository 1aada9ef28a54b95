"""The time that `budget.hours` leaves: all commands of a run count, and a part is kept for what follows the search."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evomerge.errors import RunError
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.stages import Candidate, Stage
from evomerge.terminal import duration

PARTS = 8  # of a slice that is scored under a limit; after each one the time is compared with that of the next one
SLACK = 1.25  # a part may take so many times as long as the items before it
MARGIN = 0.02  # of the hours
# Seconds, and at most a part of the hours, for the start and the end of the process, and for the report.
AROUND, AROUND_SHARE = 10.0, 0.05


class Deadline:
    """The end of a run's time, in all of its commands; without hours there is no end.

    `started` is the time of the monotonic clock at which the command began, and `earlier` the seconds of the commands
    before it. `kept` seconds are for the steps that follow the comparison, such as export and prediction.
    """

    def __init__(self, hours: float | None, started: float | None = None, earlier: float = 0.0) -> None:
        self.hours, self.kept = hours, 0.0
        self._earlier, self._started = earlier, time.monotonic() if started is None else started

    @property
    def elapsed(self) -> float:
        """Seconds that the run has taken so far, in all of its commands."""
        return self._earlier + time.monotonic() - self._started

    def left(self) -> float:
        """Seconds until the comparison must be finished; infinite without an end."""
        if self.hours is None:
            return math.inf
        whole = 3600 * self.hours
        return whole * (1 - MARGIN) - min(AROUND, AROUND_SHARE * whole) - self.kept - self.elapsed


class TimedEvaluation:
    """Scores models on a slice; where time is short, the slice ends earlier, for all models after the same chunk.

    All models are then compared on the same items, with wider intervals. The ledger records where a slice ends, so that
    a resumed run with this `budget` uses the same items. The first chunk is scored in any case.
    """

    def __init__(self, evaluator: Evaluator, deadline: Deadline, budget: Mapping[str, Any]) -> None:
        self._evaluator, self._deadline, self._budget = evaluator, deadline, budget

    def evaluate(self, candidates: Sequence[Candidate], slice_name: str, share: float = 1.0) -> None:
        """Score the candidates on a slice within a share of the time that is left now."""
        if self._deadline.hours is None:
            self._evaluator.evaluate(candidates, slice_name)
            return
        end = self._deadline.left() * (1 - share)
        stages = self._stages(candidates, slice_name, lambda: self._deadline.left() - end)
        self._evaluator.evaluate_stages(self._evaluator.plan.chunks[slice_name], stages)

    def affords(self, step: str, items: int, share: float) -> bool:
        """Whether a step with so many items fits into a share of the time left; if not, that is recorded."""
        if self._evaluator.is_cut(step):
            return False
        seconds = self._seconds(items)
        if seconds and seconds > share * self._deadline.left():
            self._evaluator.cut(step, 0, self._budget)
            return False
        return True

    def _first(self, candidates: Sequence[Candidate]) -> Iterator[Stage]:
        """The first chunk of the first model; RunError if the time is too short for one chunk of each slice.

        A run that had begun before is finished in any case.
        """
        chunks = self._evaluator.plan.chunks
        is_new = self._evaluator.missing_items(candidates[:1], chunks["search"][:1]) > 0
        yield Stage(candidates[:1], 1)
        if not is_new:
            return
        items = len(candidates) * sum(len(listed[0].items) for listed in chunks.values() if listed)
        seconds = items * (self._evaluator.seconds_per_item or 0.0)
        if seconds > self._deadline.left():
            raise RunError(
                f"budget.hours={self._deadline.hours:g}: {len(candidates)} baselines on one chunk of each slice take "
                f"about {duration(seconds)} here, and {duration(max(0.0, self._deadline.left()))} are left, without "
                f"{duration(self._deadline.kept)} for a submission; raise it, or use a smaller scorer.chunk_items or "
                "fewer baselines"
            )

    def _stages(self, candidates: Sequence[Candidate], slice_name: str, left: Callable[[], float]) -> Iterator[Stage]:
        if slice_name == "search":
            yield from self._first(candidates)
        chunks = self._evaluator.plan.chunks[slice_name]
        step = math.ceil(len(chunks) / PARTS)
        # The first part is one chunk: it is scored in any case, so that there is a result.
        starts = [0, *range(1, len(chunks), step)]
        for done, end in zip(starts, [*starts[1:], len(chunks)], strict=True):
            # Failed candidates are not scored further: a repeated run would count their items as missing for ever.
            scorable = [one for one in candidates if self._evaluator.error_on(one.key, chunks[:end]) is None]
            missing = self._evaluator.missing_items(scorable, chunks[done:end])
            if done and missing and self._seconds(missing) > left():
                # The optimizer's history depends on the items of `search`, so they stay the same with a larger budget.
                self._evaluator.cut(slice_name, done, None if slice_name == "search" else self._budget)
                return
            yield Stage(candidates, end)

    def _seconds(self, items: int) -> float:
        """About how long the workers need for so many items; 0 before the first score."""
        return SLACK * items * (self._evaluator.seconds_per_item or 0.0)
