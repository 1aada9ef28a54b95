"""Paired statistics on per-item scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["better", "tie", "worse"]


@dataclass(frozen=True)
class Interval:
    """A difference of scores with its central confidence interval."""

    difference: float
    low: float
    high: float
    level: float

    @property
    def verdict(self) -> Verdict:
        """`tie` unless the interval excludes 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "tie"


def paired_bootstrap(
    first: Mapping[str, float],
    second: Mapping[str, float],
    weights: Mapping[str, float],
    task_of: Callable[[str], str],
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of score(first) − score(second) over the same items, stratified by task.

    Items are resampled within their task and tasks keep their weights (Efron & Tibshirani 1993, ch. 13). ValueError
    where the two were scored on different items.
    """
    if first.keys() != second.keys():
        raise ValueError("a paired comparison needs the same items on both sides")
    by_task: dict[str, list[float]] = {}
    for item, score in first.items():
        by_task.setdefault(task_of(item), []).append(score - second[item])
    generator = np.random.default_rng(seed)
    total = sum(weights[task] for task in by_task)
    observed, resampled = 0.0, np.zeros(draws)
    for task in sorted(by_task):
        differences, share = np.array(by_task[task]), weights[task] / total
        observed += share * float(differences.mean())
        resampled += share * _resampled_means(differences, draws, generator)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(observed, float(low), float(high), level)


def _resampled_means(values: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Means of `draws` resamples; only the count of each distinct value matters, so they are multinomial."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values), size=draws)
    means: np.ndarray = drawn @ distinct / len(values)
    return means
