"""In which order a race sees the items of the search slice, and for how many of them each one stands.

Items on which the baselines disagree tell candidates apart, so a slice may be dealt anew to have more of them first.
Estimates stay unbiased, as an item stands for as many as were passed over for it: means are those of Hájek (1971), with
the inverse of the share that has been seen of an item's level.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median

import numpy as np

from evomerge.scoring import Chunk, Plan, task_of
from evomerge.scoring.tasks import into_chunks
from evomerge.searching.race import Strata

RATES = {"agree": 1.0, "mostly right": 1.5, "mostly wrong": 2.0}
"""How often an item is drawn beside one on which the baselines agree. Best would be how much the differences of good
candidates deviate there: 1 : 1 : 1.5 to 1 : 3 : 4.7 in four searches, which baselines could not foretell."""


@dataclass(frozen=True)
class ItemOrder:
    """The chunks of the search slice, of which any of the first `beginnings` may be a generation's first.

    `levels` say how the baselines do on an item, a key of RATES; they are empty where this plays no part.
    """

    chunks: tuple[Chunk, ...]
    beginnings: int
    levels: Mapping[str, str]

    @classmethod
    def even(cls, plan: Plan, rotating: bool) -> "ItemOrder":
        """The slice as it was dealt; each generation begins with another chunk, or all with the same."""
        chunks = plan.chunks["search"]
        return cls(chunks, len(chunks) if rotating else 1, {})

    @classmethod
    def informative(cls, plan: Plan, levels: Mapping[str, str]) -> "ItemOrder":
        """The slice as `dealt` anew; generations begin before the first level has been used up."""
        chunks = plan.chunks["search"]
        last = {levels[item]: place for place, chunk in enumerate(chunks, 1) for item in chunk.items}
        return cls(chunks, min(last.values()), levels)

    def of_generation(self, number: int) -> tuple[Chunk, ...]:
        """The chunks in the order of one generation: with the same ones first, a few items would decide them all."""
        first = number % self.beginnings
        return (*self.chunks[first : self.beginnings], *self.chunks[:first], *self.chunks[self.beginnings :])

    def strata(self, items: Sequence[str], weights: Mapping[str, float]) -> Strata:
        """What these items are drawn from; `weights` are those of the tasks that count."""
        tasks = {task: place for place, task in enumerate(weights)}
        whole = Counter(self._level(item) for item in self._items if task_of(item) in tasks)
        seen = Counter(self._level(item) for item in items)
        of_task = Counter(map(task_of, self._items))
        return Strata(
            np.array([tasks[task_of(item)] for item in items], dtype=np.int64),
            np.array([whole[self._level(item)] / seen[self._level(item)] for item in items]),
            np.array([of_task[task] for task in tasks]),
            np.array(list(weights.values())),
        )

    @cached_property
    def _items(self) -> list[str]:
        return [item for chunk in self.chunks for item in chunk.items]

    def _level(self, item: str) -> str:
        return self.levels.get(item, "")


def agreement(plan: Plan, baselines: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Item of the search slice → a key of RATES, from the scores of every baseline that has any.

    Where baselines disagree, a task's items are mostly wrong whose mean is at most the median one's.
    """
    by_item = {item: [scores[item] for scores in baselines] for item in plan.items("search")}
    means = {item: mean(values) for item, values in by_item.items() if max(values) > min(values)}
    middle = {task: median(m for item, m in means.items() if task_of(item) == task) for task in map(task_of, means)}
    levels = dict.fromkeys(by_item, "agree")
    return levels | {
        item: "mostly wrong" if value <= middle[task_of(item)] else "mostly right" for item, value in means.items()
    }


def rechunked(plan: Plan, levels: Mapping[str, str]) -> tuple[Chunk, ...]:
    """The items of the search slice in chunks as large as before, each stratum in the order in which it was drawn."""
    strata: dict[tuple[str, str], list[str]] = {(task, level): [] for task in plan.weights for level in RATES}
    for item in plan.items("search"):
        strata[task_of(item), levels[item]].append(item)
    drawn = {"/".join(stratum): items for stratum, items in strata.items() if items}
    rates = [RATES[level] for (_, level), items in strata.items() if items]
    largest = max(len(chunk.items) for chunk in plan.chunks["search"])
    chunks = into_chunks("search", drawn, largest, rates)
    return tuple(Chunk(f"search/informative/{place}", "search", chunk.items) for place, chunk in enumerate(chunks))
