"""The budget of a search in candidates, items or hours: when the search ends, and how many items a race may use."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

from evomerge.errors import ConfigError
from evomerge.ledger import Ledger
from evomerge.schema import Count, Range
from evomerge.scoring import task_of
from evomerge.searching.deadline import Deadline
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.race import RaceConfig
from evomerge.searching.stages import Candidate

FINAL_SHARE = 0.5  # of the time after the baselines that finalise may take
RECENT = 3  # generations whose cost predicts the next one: a race between equal candidates costs more than others
IDLE_LIMIT = 20  # without a limit on candidates, a search ends after so many generations without a new candidate
PER_DIMENSION = 8  # candidates per dimension of the space that are enough; a larger budget buys more items for each


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """The limits of a search, of which at least one is set.

    `evaluations` counts candidates that the optimizer proposes, `items` the items of the search slice that they are
    scored on; neither counts the baselines. `hours` is the time of the whole run, in all of its commands,
    and `gpu_gb` the memory of a GPU that its workers may use.
    """

    evaluations: Count | None = 100
    items: Count | None = None
    hours: Annotated[float, Range(0, 1e6, without=(0,))] | None = None
    gpu_gb: Annotated[float, Range(0, 1e6, without=(0,))] | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.items is None and self.hours is None:
            raise ConfigError("budget: evaluations, items and hours are all null; give one of them")

    def __str__(self) -> str:
        """The limits in words, for the `check` command."""
        parts = [f"{self.evaluations} evaluations"] if self.evaluations is not None else []
        parts += [f"{self.items} items"] if self.items is not None else []
        parts += [f"{self.hours:g} hours"] if self.hours is not None else []
        return ", or ".join(parts)

    @property
    def limits_items(self) -> bool:
        """Whether the budget limits the total number of items, directly or by time."""
        return self.items is not None or self.hours is not None

    def describe_cost(self, slice_items: int) -> str:
        """The cost of the search in words, assuming that every candidate is scored on all items of the slice."""
        items = math.inf if self.evaluations is None else self.evaluations * slice_items
        if self.items is not None and self.items < items:
            return f"at least {self.items // slice_items} candidates, more if races stop some early"
        return f"at most {items} items of the search slice" if items < math.inf else "as many candidates as time allows"


class RemainingBudget:
    """The remaining part of a budget before each generation.

    Candidates and items are counted when they are requested, whether or not the ledger has them already, so a resumed
    search ends at the same generation as an uninterrupted one. Time cannot be derived from the ledger. The ledger
    therefore records the generation after which the time had run out, and a repeated command with the same budget ends
    there. `reserve` is the number of items that finalise will score after the search; with hours, finalise gets at most
    half of the time that is left when the baselines are scored, and shortens its slices to it.
    """

    def __init__(
        self,
        budget: BudgetConfig,
        evaluator: Evaluator,
        ledger: Ledger,
        reserve: int = 0,
        deadline: Deadline | None = None,
    ) -> None:
        self._budget, self._evaluator, self._ledger, self._reserve = budget, evaluator, ledger, reserve
        self._deadline = deadline or Deadline(budget.hours)
        self._plain = asdict(budget)
        self._most_kept: float | None = None  # seconds for finalise
        self._candidates = 0
        self._items: dict[str, int] = {}  # recipe key → items that it was scored on
        self._item_total = self._counted_before = 0  # sums of `_items`: now, and after the last generation
        self._costs: list[int] = []  # items that each generation has added
        self._slopes = 0.0  # item equivalents of a descent
        self._begun_at: int | None = None  # items that this command had scored when the generation began
        self._ended_at: int | None = None  # … and when the search ended

    def widen_race(self, race: RaceConfig, dimensions: int) -> RaceConfig:
        """The race with `most` raised to what the budget can pay for; decided once per search, in the ledger."""
        if race.most is None or not race.can_widen:
            return race
        if self._ledger.race_limit is None:
            self._ledger.append_race_limit(self._affordable_items(race.most, dimensions))
        return replace(race, most=self._ledger.race_limit)

    def _affordable_items(self, least: int, dimensions: int) -> int:
        """Items per candidate if the budget is shared by enough candidates; `least` if it only counts candidates."""
        pace, limit = self._evaluator.seconds_per_item, self._budget.items
        bounds = [math.inf if limit is None else max(0.0, limit - self._slopes)]
        if self._budget.hours is not None and pace:
            bounds.append((self._deadline.left() - self._seconds_kept(pace)) / pace)
        items, tasks = self._evaluator.plan.items("search"), self._evaluator.objective.weights
        counting = sum(task_of(item) in tasks for item in items)  # a race uses only these, the budget pays for all
        candidates = min(PER_DIMENSION * dimensions, self._budget.evaluations or math.inf)
        affordable = min(bounds) / candidates * counting / len(items)
        return least if affordable == math.inf else max(least, min(counting, int(affordable)))

    def next_generation_limit(self, generation: int) -> int:
        """The largest size of the generation that follows number `generation`; 0 ends the search.

        In an asynchronous search, `generation` is the number of candidates proposed so far.
        """
        self._begun_at = self._evaluator.scored_items
        if self._budget.items is not None and self.spent >= self._budget.items:
            return 0
        if self._budget.evaluations is None and len(self._costs) >= IDLE_LIMIT and not any(self._costs[-IDLE_LIMIT:]):
            return 0
        if {"after": generation, "budget": self._plain} in self._ledger.stops:
            return 0
        left = sys.maxsize if self._budget.evaluations is None else self._budget.evaluations - self._candidates
        return max(0, left)

    def begins_in_time(self, generation: int, candidates: Sequence[Candidate], in_work: int = 0) -> bool:
        """Whether there is time for these candidates, which follow number `generation`, and for finalise after them.

        So many candidates are `in_work` in an asynchronous search, these included, at the mean cost of those that have
        a result.

        The assumed cost is that of the costliest recent generation, and at least one slice, that of the leader. The
        first generation, or as many results, may cost a slice for each candidate. A generation whose candidates were
        all begun before is finished.
        """
        if self._budget.hours is None or all(map(self._evaluator.is_begun, candidates)):
            return True
        slice_items = len(self._evaluator.plan.items("search"))
        first = slice_items * max(len(candidates), in_work)
        cost = max(slice_items, *self._costs[-RECENT:]) if self._costs else first
        cost = max(cost, math.ceil(in_work * self._item_total / max(1, len(self._items))))
        return self._in_time(
            generation, cost, self._evaluator.seconds_per_item or self._evaluator.recorded_seconds_per_item
        )

    def record(self, candidates: int, items: Mapping[str, int]) -> None:
        """Count a generation: the number of its candidates, and recipe key → items scored; no item counts twice."""
        self.count(candidates, items)
        self.end_generation()

    def count(self, candidates: int, items: Mapping[str, int]) -> None:
        """Count candidates and items as `record` does, within a generation."""
        self._begun_at = self._evaluator.scored_items
        self._candidates += candidates
        baselines = set(self._evaluator.baselines.values())
        for key, number in items.items():
            if key not in baselines and (more := number - self._items.get(key, 0)) > 0:
                self._items[key] = number
                self._item_total += more

    def end_generation(self) -> None:
        """The items that were counted since the last call are the cost of a generation."""
        self._costs.append(self._item_total - self._counted_before)
        self._counted_before = self._item_total

    def end_search(self) -> None:
        """From now on, only the items of the steps after the search are left."""
        self._ended_at = self._evaluator.scored_items

    def record_slopes(self, equivalents: float) -> None:
        """Count a request of a descent, in forward passes of one item; unlike scores, it counts each time."""
        self._slopes += equivalents

    @property
    def limits_hours(self) -> bool:
        """Whether time limits the search, so that an allowance cannot be derived from the ledger."""
        return self._budget.hours is not None

    @property
    def spent(self) -> float:
        """The items of candidates and the item equivalents of a descent so far."""
        return self._item_total + self._slopes

    @property
    def saved_by_races(self) -> int:
        """The items of the search slice that races have spared the candidates so far."""
        return len(self._items) * len(self._evaluator.plan.items("search")) - self._item_total

    def item_allowance(self, slope_pace: float | None = None) -> float:
        """How many item equivalents the search may still spend; without a limit on items or hours, those of all
        candidates that it may propose.

        `slope_pace` is the number of seconds per item equivalent of a descent; without it, that of candidates counts.
        """
        bounds, scoring = [self._counted_allowance()], self._evaluator.seconds_per_item or slope_pace
        if self._budget.hours is not None and scoring:
            seconds = self._deadline.left() - self._seconds_kept(scoring)
            bounds.append(seconds / (slope_pace or scoring))
        return min(bounds)

    def pays_for(self, equivalents: float, recorded: bool, pace: float | None) -> bool:
        """Whether a request of a descent may be made; one whose answer is `recorded` takes no time.

        `pace` is the number of seconds per item equivalent of the descent, which counts where no candidate has been
        scored by this command. If time has run out, the ledger records that, so a repeated command ends there.
        """
        if equivalents > self._counted_allowance():
            return False
        pace = self._evaluator.seconds_per_item or pace
        return self._budget.hours is None or recorded or self._in_time(0, equivalents, pace)

    def _counted_allowance(self) -> float:
        """The item equivalents that are left by the limits on items and candidates."""
        bounds = [math.inf]
        if self._budget.items is not None:
            bounds.append(self._budget.items - self.spent)
        if self._budget.evaluations is not None:
            whole = self._budget.evaluations * len(self._evaluator.plan.items("search"))
            bounds.append(whole - self.spent)
        return min(bounds)

    def seconds_left(self) -> float | None:
        """Estimated seconds until the command ends, at the average speed so far; None before the first score."""
        pace, scored = self._evaluator.seconds_per_item, self._evaluator.scored_items
        if pace is None:
            return None
        until_end = max(0.0, self._deadline.left())
        if self._ended_at is not None:
            return min(until_end, pace * max(0, self._reserve - (scored - self._ended_at)))
        spent, slice_items = self._item_total, len(self._evaluator.plan.items("search"))
        left = math.inf if self._budget.evaluations is None else self._budget.evaluations - self._candidates
        items = left * (spent / self._candidates if self._candidates else slice_items)
        if self._budget.items is not None:
            items = min(items, self._budget.items - self.spent)
        items -= 0 if self._begun_at is None else scored - self._begun_at
        seconds = pace * (max(0.0, items) + self._reserve)
        return min(seconds, until_end)

    def _in_time(self, generation: int, cost: float, pace: float | None) -> bool:
        """Whether there is time for finalise and `cost` more items; if not, the ledger records after which generation.

        Without a `pace` this command has computed nothing yet, so there is no speed to extrapolate.
        """
        if {"after": generation, "budget": self._plain} in self._ledger.stops:
            return False
        left = self._deadline.left()
        if left > 0 and (pace is None or pace * cost + self._seconds_kept(pace) <= left):
            return True
        self._ledger.append_stop(generation, self._plain)
        return False

    def _seconds_kept(self, pace: float) -> float:
        """Seconds that finalise may take at this pace."""
        if self._most_kept is None:
            self._most_kept = FINAL_SHARE * max(0.0, self._deadline.left())
        return min(pace * self._reserve, self._most_kept)
