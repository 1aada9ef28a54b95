"""The difference between two models' scores on the same items, with its interval and its standard error."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.finalise import PairedScores, bootstrap
from evomerge.scoring import task_of

DRAWS = 2000  # of the bootstrap; there are experts × tasks intervals


@dataclass(frozen=True)
class Scored:
    """A model's scores on the search slice.

    `tasks` maps each task to its mean or corpus-level metric, `items` each item to its score, without the tasks of
    corpus-level metrics.
    """

    tasks: Mapping[str, float]
    items: Mapping[str, float]

    def mean(self, weights: Mapping[str, float]) -> float:
        """The weighted mean of the tasks."""
        return math.fsum(weights[task] * self.tasks[task] for task in weights) / math.fsum(weights.values())


@dataclass(frozen=True)
class Gain:
    """A difference of scores with its 95% interval, and its standard error; without width for a corpus-level metric."""

    difference: float
    low: float
    high: float
    standard_error: float

    def __str__(self) -> str:
        """The difference and its interval."""
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def gain(one: Scored, other: Scored, weights: Mapping[str, float]) -> Gain:
    """The weighted mean of `one` minus that of `other` over the tasks of `weights`.

    The interval is that of the tasks that are scored item by item.
    """
    difference = one.mean(weights) - other.mean(weights)
    first, second = ({i: s for i, s in side.items.items() if task_of(i) in weights} for side in (one, other))
    if not first:
        return Gain(difference, difference, difference, 0.0)
    paired = PairedScores.of(first, second, weights, task_of)
    share = sum(weights[task] for task in {task_of(item) for item in first}) / math.fsum(weights.values())
    interval = bootstrap(paired, draws=DRAWS)
    low, high = (share * (end - interval.difference) for end in (interval.low, interval.high))
    return Gain(difference, difference + low, difference + high, share * paired.standard_error)
