"""The order in which races use the items of the search slice, and the weight of each item in an estimate.

Items on which the baselines disagree distinguish candidates best, so the slice may be regrouped to have more of them
in its first chunks. Estimates stay unbiased because means are weighted (Hájek 1971): the weight of an item is the
inverse of the share of its level that has been seen.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median

import numpy as np

from evomerge.scoring import Chunk, Plan, task_of
from evomerge.scoring.tasks import make_chunks
from evomerge.searching.race import Strata

RATES = {"agree": 1.0, "mostly right": 1.5, "mostly wrong": 2.0}
"""Level → sampling rate, relative to items on which the baselines agree. The optimal rates are proportional to the
standard deviation of the differences between good candidates. They were between 1 : 1 : 1.5 and 1 : 3 : 4.7 in four
searches, and the scores of the baselines did not predict them."""


@dataclass(frozen=True)
class ItemOrder:
    """The chunks of the search slice in order; generations begin in turn with one of the first `rotating_chunks`.

    `levels` maps each item to a key of RATES; it is empty if all items have the same rate.
    """

    chunks: tuple[Chunk, ...]
    rotating_chunks: int
    levels: Mapping[str, str]

    @classmethod
    def as_drawn(cls, plan: Plan, rotating: bool) -> "ItemOrder":
        """The chunks as drawn; if `rotating`, each generation begins with the next chunk, else all with the first."""
        chunks = plan.chunks["search"]
        return cls(chunks, len(chunks) if rotating else 1, {})

    @classmethod
    def by_level(cls, plan: Plan, levels: Mapping[str, str]) -> "ItemOrder":
        """The chunks of `chunks_by_level`; a generation may begin with any chunk before a level has no items left."""
        chunks = plan.chunks["search"]
        last = {levels[item]: place for place, chunk in enumerate(chunks, 1) for item in chunk.items}
        return cls(chunks, min(last.values()), levels)

    def generation_chunks(self, number: int) -> tuple[Chunk, ...]:
        """The chunks in the order of one generation.

        The order rotates because otherwise the same few items would decide every generation. Chunks that are needed to
        cover all tasks come first, because a race decides nothing before.
        """
        first, end = number % self.rotating_chunks, self.rotating_chunks
        return _tasks_first((*self.chunks[first:end], *self.chunks[:first], *self.chunks[end:]))

    def strata(self, items: Sequence[str], weights: Mapping[str, float]) -> Strata:
        """The strata of the seen items; `weights` maps each task of the objective to its weight."""
        tasks = {task: place for place, task in enumerate(weights)}
        total = Counter(self._level(item) for item in self._items if task_of(item) in tasks)
        seen = Counter(self._level(item) for item in items)
        task_sizes = Counter(map(task_of, self._items))
        return Strata(
            np.array([tasks[task_of(item)] for item in items], dtype=np.int64),
            np.array([total[self._level(item)] / seen[self._level(item)] for item in items]),
            np.array([task_sizes[task] for task in tasks]),
            np.array(list(weights.values())),
        )

    @cached_property
    def _items(self) -> list[str]:
        return [item for chunk in self.chunks for item in chunk.items]

    def _level(self, item: str) -> str:
        return self.levels.get(item, "")


def _tasks_first(chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
    """The chunks with those first that hold a task which no chunk before them holds; otherwise the order is kept."""
    early, late, seen = list[Chunk](), list[Chunk](), set[str]()
    for chunk in chunks:
        tasks = set(map(task_of, chunk.items))
        (late if tasks <= seen else early).append(chunk)
        seen |= tasks
    return (*early, *late)


def agreement_levels(plan: Plan, baselines: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Item of the search slice → its level, a key of RATES, from item scores of the baselines.

    An item on which baselines disagree is "mostly wrong" if the mean of its scores is at most the median over such
    items of its task, and "mostly right" otherwise.
    """
    by_item = {item: [scores[item] for scores in baselines] for item in plan.items("search")}
    means = {item: mean(values) for item, values in by_item.items() if max(values) > min(values)}
    middle = {task: median(m for item, m in means.items() if task_of(item) == task) for task in map(task_of, means)}
    levels = dict.fromkeys(by_item, "agree")
    return levels | {
        item: "mostly wrong" if value <= middle[task_of(item)] else "mostly right" for item, value in means.items()
    }


def chunks_by_level(plan: Plan, levels: Mapping[str, str]) -> tuple[Chunk, ...]:
    """The items of the search slice in chunks of the same size, with items of higher rates in earlier chunks.

    Within a task and level, the order in which the items were drawn is kept.
    """
    strata: dict[tuple[str, str], list[str]] = {(task, level): [] for task in plan.weights for level in RATES}
    for item in plan.items("search"):
        strata[task_of(item), levels[item]].append(item)
    drawn = {"/".join(stratum): items for stratum, items in strata.items() if items}
    rates = [RATES[level] for (_, level), items in strata.items() if items]
    largest = max(len(chunk.items) for chunk in plan.chunks["search"])
    chunks = make_chunks("search", drawn, largest, rates)
    return tuple(Chunk(f"search/informative/{place}", "search", chunk.items) for place, chunk in enumerate(chunks))
