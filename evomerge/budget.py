"""When a search ends: after so many candidates, items or hours, whichever comes first."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from evomerge.errors import ConfigError
from evomerge.evaluator import Evaluator
from evomerge.ledger import Ledger
from evomerge.schema import positive


@dataclass(frozen=True, kw_only=True)
class Budget:
    """`evaluations` candidates asked of the optimizer, `items` of the search slice that they are scored on, `hours`
    from the start of the command to its end, finalise included; baselines come on top of the first two."""

    evaluations: int = 100
    items: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        positive("budget.evaluations", self.evaluations)
        if self.items is not None:
            positive("budget.items", self.items)
        if self.hours is not None and self.hours <= 0:
            raise ConfigError(f"budget.hours={self.hours}: give more than 0")

    def __str__(self) -> str:
        """In words, for whoever checks a configuration."""
        parts = [f"{self.evaluations} evaluations"]
        parts += [f"{self.items} items"] if self.items is not None else []
        parts += [f"{self.hours:g} hours"] if self.hours is not None else []
        return ", or ".join(parts)


class Allowance:
    """What is left of a budget before each generation.

    Candidates and items are counted as they are asked for, so that a resumed search ends where an undisturbed one does.
    Time is no function of the ledger: the generation after which it had run out is noted there, and a repeated
    command with the same budget ends at that note. `reserve` items are still to be scored when the search has ended.
    """

    def __init__(self, budget: Budget, evaluator: Evaluator, ledger: Ledger, reserve: int = 0) -> None:
        self._budget, self._evaluator, self._ledger, self._reserve = budget, evaluator, ledger, reserve
        self._start = time.monotonic()
        self._asked = 0
        self._seen: dict[str, int] = {}
        self._last = 0  # items of the last generation

    def room(self, generation: int) -> int:
        """Candidates that the next generation may have after so many; 0 ends the search."""
        left = self._budget.evaluations - self._asked
        if self._budget.items is not None and sum(self._seen.values()) >= self._budget.items:
            return 0
        return max(0, left) if self._budget.hours is None or self._in_time(generation) else 0

    def spend(self, candidates: int, items: Mapping[str, int]) -> None:
        """Count a generation: its candidates, and the items that each recipe has been scored on; no item twice."""
        before = sum(self._seen.values())
        self._asked += candidates
        paid = set(self._evaluator.baselines.values())
        self._seen |= {key: max(n, self._seen.get(key, 0)) for key, n in items.items() if key not in paid}
        self._last = sum(self._seen.values()) - before

    def _in_time(self, generation: int) -> bool:
        """Whether one more generation like the last one, and what comes after the search, end before the hours do."""
        note = {"after": generation, "budget": asdict(self._budget)}
        if note in self._ledger.stops:
            return False
        if not self._evaluator.scored:
            return True  # nothing is paid for yet, or everything is known already
        pace = self._evaluator.busy / self._evaluator.scored
        needed = pace * (self._last + self._reserve)
        if time.monotonic() - self._start + needed <= 3600 * (self._budget.hours or 0.0):
            return True
        self._ledger.append_stop(generation, asdict(self._budget))
        return False
