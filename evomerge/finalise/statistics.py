"""Paired statistics on per-item scores: an interval, an exact test, and a correction for making several claims."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Verdict = Literal["better", "tie", "worse"]
STATES = 1 << 20  # sums that an exact test enumerates at most


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

    @property
    def reversed(self) -> "Interval":
        """Of the same two the other way round."""
        return Interval(-self.difference, -self.high, -self.low, self.level)


@dataclass(frozen=True)
class PairedScores:
    """Two models on the same items: their differences, an array for each task, and what each task's mean counts."""

    differences: tuple[FloatArray, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(
        cls,
        first: Mapping[str, float],
        second: Mapping[str, float],
        weights: Mapping[str, float],
        task_of: Callable[[str], str],
    ) -> "PairedScores":
        """first − second item by item, tasks in order of name; ValueError where the items are not the same."""
        if first.keys() != second.keys():
            raise ValueError("a paired comparison needs the same items on both sides")
        by_task: dict[str, list[float]] = {}
        for item, score in first.items():
            by_task.setdefault(task_of(item), []).append(score - second[item])
        total = sum(weights[task] for task in by_task)
        tasks = sorted(by_task)
        return cls(tuple(np.array(by_task[task]) for task in tasks), tuple(weights[task] / total for task in tasks))

    @property
    def difference(self) -> float:
        """score(first) − score(second)."""
        return sum(share * float(d.mean()) for share, d in zip(self.shares, self.differences, strict=True))

    @property
    def standard_error(self) -> float:
        """Of the difference, items drawn anew within their tasks."""
        variances = (float(d.var(ddof=1)) / len(d) if len(d) > 1 else 0.0 for d in self.differences)
        return math.sqrt(sum(share**2 * v for share, v in zip(self.shares, variances, strict=True)))


@dataclass(frozen=True)
class Significance:
    """A two-sided p-value and how it was found."""

    p: float
    test: Literal["McNemar", "sign flips"]
    exact: bool


@dataclass(frozen=True)
class PairedTest:
    """The winner against one baseline on the same items; `corrected` is p after Holm's correction."""

    label: str
    interval: Interval
    significance: Significance
    corrected: float

    @property
    def verdict(self) -> Verdict:
        """A tie unless interval and corrected test both see a difference."""
        return self.interval.verdict if self.corrected <= 1 - self.interval.level else "tie"


def compare(
    winner: Mapping[str, float],
    others: Mapping[str, Mapping[str, float]],
    weights: Mapping[str, float],
    task_of: Callable[[str], str],
    seed: int = 0,
) -> tuple[PairedTest, ...]:
    """The winner's item scores against each other model's, p-values corrected for their number."""
    pairs = {label: PairedScores.of(winner, items, weights, task_of) for label, items in others.items()}
    tests = {label: sign_flips(paired, seed=seed) for label, paired in pairs.items()}
    corrected = holm({label: test.p for label, test in tests.items()})
    return tuple(
        PairedTest(label, bootstrap(paired, seed=seed), tests[label], corrected[label])
        for label, paired in pairs.items()
    )


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
    """`bootstrap` of two models' item scores; ValueError where the two were scored on different items."""
    return bootstrap(PairedScores.of(first, second, weights, task_of), draws=draws, level=level, seed=seed)


def bootstrap(paired: PairedScores, *, draws: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap of the difference, stratified by task.

    Items are resampled within their task and tasks keep their weights (Efron & Tibshirani 1993, ch. 13).
    """
    generator = np.random.default_rng(seed)
    resampled = np.zeros(draws)
    for share, differences in zip(paired.shares, paired.differences, strict=True):
        resampled += share * _resampled_means(differences, draws, generator)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(paired.difference, float(low), float(high), level)


def sign_flips(paired: PairedScores, *, draws: int = 20_000, seed: int = 0) -> Significance:
    """Were the models alike, each item's difference could as well have the other sign: how rare is one this large?

    Where all differences count alike, as those of a 0/1 metric on tasks of equal weight and size do, this is the exact
    McNemar test: a binomial of the items that only one of the two has right. In general the few distinct magnitudes
    are enumerated, and where those are too many the signs are drawn (Phipson & Smyth 2010: never p = 0).
    """
    weighted = [share / len(d) * d for share, d in zip(paired.shares, paired.differences, strict=True)]
    values = np.concatenate([np.empty(0), *weighted])
    observed, values = abs(float(values.sum())), values[values != 0]
    if not len(values):
        return Significance(1.0, "McNemar", exact=True)
    scale = float(np.abs(values).max())
    sizes, counts = np.unique(np.round(np.abs(values) / scale, 12), return_counts=True)
    binary = len(sizes) == 1 and all(np.isin(np.abs(d), (0.0, 1.0)).all() for d in paired.differences)
    bound = observed / scale - 1e-9
    exact = math.prod(int(count) + 1 for count in counts) <= STATES
    p = _enumerated(sizes, counts, bound) if exact else _drawn(sizes, counts, bound, draws, seed)
    return Significance(min(1.0, p), "McNemar" if binary else "sign flips", exact)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected so that all claims together err at the level of one (Holm 1979)."""
    corrected, least = {}, 0.0
    for done, label in enumerate(sorted(p_values, key=lambda label: p_values[label])):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[label]))
        corrected[label] = least
    return {label: corrected[label] for label in p_values}


def _enumerated(sizes: FloatArray, counts: NDArray[np.int64], bound: float) -> float:
    """The probability of a sum at least `bound` away from 0, over all signs: of each size a binomial number is plus."""
    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        steps = size * (2 * np.arange(count + 1) - count)
        sums = np.add.outer(sums, steps).ravel()
        chances = np.multiply.outer(chances, _binomial(count)).ravel()
    return float(chances[np.abs(sums) >= bound].sum())


def _drawn(sizes: FloatArray, counts: NDArray[np.int64], bound: float, draws: int, seed: int) -> float:
    generator, sums = np.random.default_rng(seed), np.zeros(draws)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        sums += size * (2 * generator.binomial(count, 0.5, draws) - count)
    return (1 + int((np.abs(sums) >= bound).sum())) / (1 + draws)


def _binomial(count: int) -> FloatArray:
    """The chances of 0 … count heads of a fair coin."""
    ways, found = 1, []
    for heads in range(count + 1):
        found.append(ways / (1 << count))  # of integers of any length, rounded once
        ways = ways * (count - heads) // (heads + 1)
    return np.array(found)


def _resampled_means(values: FloatArray, draws: int, generator: np.random.Generator) -> FloatArray:
    """Means of `draws` resamples; only the count of each distinct value matters, so they are multinomial."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values), size=draws)
    means: FloatArray = drawn @ distinct / len(values)
    return means
