"""When a search ends, after so many candidates, items or hours, and how many items it can pay for on a candidate."""

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated

from evomerge.errors import ConfigError
from evomerge.ledger import Ledger
from evomerge.schema import Count, Range
from evomerge.scoring import task_of
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.race import RaceConfig

RECENT = 3  # generations: races of equal candidates cost more than others
IDLE = 20  # generations in a row without a new candidate end a search that nothing else may end
PER_DIMENSION = 8  # candidates for each dimension of the space: what a budget pays for beyond goes into more items


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """`evaluations` candidates asked of the optimizer, `items` of the search slice that they are scored on, `hours`
    from the start of the command to its end, finalise included; baselines come on top of the first two. Any may be
    None, not all."""

    evaluations: Count | None = 100
    items: Count | None = None
    hours: Annotated[float, Range(0, 1e6, without=(0,))] | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.items is None and self.hours is None:
            raise ConfigError("budget: evaluations, items and hours are all null; give one of them")

    def __str__(self) -> str:
        """In words, for whoever checks a configuration."""
        parts = [f"{self.evaluations} evaluations"] if self.evaluations is not None else []
        parts += [f"{self.items} items"] if self.items is not None else []
        parts += [f"{self.hours:g} hours"] if self.hours is not None else []
        return ", or ".join(parts)

    @property
    def bounds_items(self) -> bool:
        """Whether it says, in one way or the other, how many items candidates may be shown in all."""
        return self.items is not None or self.hours is not None

    def most(self, slice_items: int) -> str:
        """What that comes to where every candidate sees its whole slice, as far as it can be known beforehand."""
        items = math.inf if self.evaluations is None else self.evaluations * slice_items
        if self.items is not None and self.items < items:
            return f"at least {self.items // slice_items} candidates, more where races stop some early"
        return f"at most {items} items of the search slice" if items < math.inf else "as many candidates as time allows"


class RemainingBudget:
    """What is left of a budget before each generation.

    Candidates and items are counted as they are asked for, so that a resumed search ends where an undisturbed one does.
    Time is no function of the ledger: the generation after which it had run out is noted there, and a repeated
    command with the same budget ends at that note. `reserve` items are still to be scored when the search has ended.
    Hours count from `start`, the monotonic clock's time, or from now.
    """

    def __init__(
        self, budget: BudgetConfig, evaluator: Evaluator, ledger: Ledger, reserve: int = 0, start: float | None = None
    ) -> None:
        self._budget, self._evaluator, self._ledger, self._reserve = budget, evaluator, ledger, reserve
        self._start = time.monotonic() if start is None else start
        self._asked = 0
        self._seen: dict[str, int] = {}
        self._costs: list[int] = []  # items that each generation has added

    def widened(self, rule: RaceConfig, dimensions: int) -> RaceConfig:
        """The race with as many items as the budget can pay for on enough candidates; decided once and noted."""
        if rule.most is None or not rule.widens:
            return rule
        if self._ledger.race_limit is None:
            self._ledger.append_race_limit(self._window(rule.most, dimensions))
        return replace(rule, most=self._ledger.race_limit)

    def _window(self, narrowest: int, dimensions: int) -> int:
        """Items that each of enough candidates can be shown; the narrowest where the budget only counts candidates."""
        pace, bounds = self._pace(), [math.inf if self._budget.items is None else float(self._budget.items)]
        if self._budget.hours is not None and pace:
            bounds.append(self._remaining(self._budget.hours) / pace - self._reserve)
        items, tasks = self._evaluator.plan.items("search"), self._evaluator.objective.weights
        counting = sum(task_of(item) in tasks for item in items)  # a race sees those, a budget pays for all
        candidates = min(PER_DIMENSION * dimensions, self._budget.evaluations or math.inf)
        affordable = min(bounds) / candidates * counting / len(items)
        return narrowest if affordable == math.inf else max(narrowest, min(counting, int(affordable)))

    def room(self, generation: int) -> int:
        """Candidates that the next generation may have after so many; 0 ends the search."""
        if self._budget.items is not None and sum(self._seen.values()) >= self._budget.items:
            return 0
        if self._budget.evaluations is None and generation >= IDLE and not any(self._costs[-IDLE:]):
            return 0
        left = sys.maxsize if self._budget.evaluations is None else self._budget.evaluations - self._asked
        return max(0, left) if self._budget.hours is None or self._in_time(generation, self._budget.hours) else 0

    def spend(self, candidates: int, items: Mapping[str, int]) -> None:
        """Count a generation: its candidates, and the items that each recipe has been scored on; no item twice."""
        before = sum(self._seen.values())
        self._asked += candidates
        paid = set(self._evaluator.baselines.values())
        self._seen |= {key: max(n, self._seen.get(key, 0)) for key, n in items.items() if key not in paid}
        self._costs.append(sum(self._seen.values()) - before)

    def left(self) -> float | None:
        """About how many seconds until the command ends, at the pace so far; None where nothing has been scored yet."""
        pace = self._pace()
        if pace is None:
            return None
        spent, whole = sum(self._seen.values()), len(self._evaluator.plan.items("search"))
        left = math.inf if self._budget.evaluations is None else self._budget.evaluations - self._asked
        items = left * (spent / self._asked if self._asked else whole)
        if self._budget.items is not None:
            items = min(items, self._budget.items - spent)
        seconds = pace * (max(0.0, items) + self._reserve)
        return seconds if self._budget.hours is None else min(seconds, max(0.0, self._remaining(self._budget.hours)))

    def _in_time(self, generation: int, hours: float) -> bool:
        """Whether one more generation, as costly as any of the last ones, and what comes after the search fit in.

        A generation costs a slice at least, the leader's: the last ones may have been known already.
        """
        if {"after": generation, "budget": asdict(self._budget)} in self._ledger.stops:
            return False
        pace = self._pace()
        if pace is None:
            return True  # nothing is paid for yet, or everything is known already
        cost = max([len(self._evaluator.plan.items("search")), *self._costs[-RECENT:]])
        if pace * (cost + self._reserve) <= self._remaining(hours):
            return True
        self._ledger.append_stop(generation, asdict(self._budget))
        return False

    def _pace(self) -> float | None:
        """Seconds an item, all workers together."""
        return self._evaluator.busy / self._evaluator.scored if self._evaluator.scored else None

    def _remaining(self, hours: float) -> float:
        return 3600 * hours - (time.monotonic() - self._start)
