"""Paired statistics on item scores: a bootstrap confidence interval, an exact test, and a correction for many tests."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Verdict = Literal["better", "tie", "worse"]
MAX_ENUMERATED_SUMS = 1 << 20  # a test with more possible sums draws random signs instead


@dataclass(frozen=True)
class ConfidenceInterval:
    """A difference of scores and the central confidence interval around it; `level` is 0.95 for 95%."""

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
    def negated(self) -> "ConfidenceInterval":
        """The interval of the same two models with their order swapped."""
        return ConfidenceInterval(-self.difference, -self.high, -self.low, self.level)


@dataclass(frozen=True)
class PairedScores:
    """The score differences of two models on the same items.

    `differences` has an array for each task, `weights` the weight of each task's mean; the weights sum to 1.
    """

    differences: tuple[FloatArray, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(
        cls,
        first: Mapping[str, float],
        second: Mapping[str, float],
        weights: Mapping[str, float],
        task_of: Callable[[str], str],
    ) -> "PairedScores":
        """first − second item by item, with tasks in alphabetical order; ValueError if the items differ."""
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
        return sum(weight * float(d.mean()) for weight, d in zip(self.weights, self.differences, strict=True))

    @property
    def standard_error(self) -> float:
        """The standard error of the difference when the items of each task are a random sample."""
        variances = (float(d.var(ddof=1)) / len(d) if len(d) > 1 else 0.0 for d in self.differences)
        return math.sqrt(sum(weight**2 * v for weight, v in zip(self.weights, variances, strict=True)))


@dataclass(frozen=True)
class Significance:
    """A two-sided p-value and the test that gave it; not `exact` if the test drew random signs."""

    p: float
    test: Literal["McNemar", "sign flips", "bootstrap"]
    exact: bool


@dataclass(frozen=True)
class PairedTest:
    """The comparison of the winner with one other model on the same items; `corrected_p` is Holm's correction of p."""

    label: str
    interval: ConfidenceInterval
    significance: Significance
    corrected_p: float

    @property
    def verdict(self) -> Verdict:
        """A tie unless the interval excludes 0 and the corrected p-value is significant at the same level."""
        return self.interval.verdict if self.corrected_p <= 1 - self.interval.level else "tie"


def compare(
    winner: Mapping[str, float],
    others: Mapping[str, Mapping[str, float]],
    weights: Mapping[str, float],
    task_of: Callable[[str], str],
    seed: int = 0,
) -> tuple[PairedTest, ...]:
    """Compare the winner's item scores with those of each other model; p-values are corrected for their number."""
    pairs = {label: PairedScores.of(winner, items, weights, task_of) for label, items in others.items()}
    tests = {label: sign_flips(paired, seed=seed) for label, paired in pairs.items()}
    corrected = holm({label: test.p for label, test in tests.items()})
    return tuple(
        PairedTest(label, bootstrap(paired, seed=seed), tests[label], corrected[label])
        for label, paired in pairs.items()
    )


def bootstrap(paired: PairedScores, *, draws: int = 10_000, level: float = 0.95, seed: int = 0) -> ConfidenceInterval:
    """Percentile bootstrap interval of the difference, stratified by task.

    Items are resampled within their task and tasks keep their weights (Efron & Tibshirani 1993, ch. 13).
    """
    generator = np.random.default_rng(seed)
    resampled = np.zeros(draws)
    for weight, differences in zip(paired.weights, paired.differences, strict=True):
        resampled += weight * _resampled_means(differences, draws, generator)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return ConfidenceInterval(paired.difference, float(low), float(high), level)


def sign_flips(paired: PairedScores, *, draws: int = 20_000, seed: int = 0) -> Significance:
    """Two-sided sign-flip permutation test of the hypothesis that both models are equally good.

    Under this hypothesis every item's difference is as likely with the opposite sign; p is the probability of a sum at
    least as large as the observed one. If all non-zero differences have the same size, as with a 0/1 metric on tasks of
    equal weight and size, this is the exact McNemar test: a binomial test of the items that only one model has right.
    Otherwise the sums of all sign patterns are enumerated by their distinct sizes, or, if there are too many, the signs
    are drawn at random (Phipson & Smyth 2010: never p = 0).
    """
    weighted = [weight / len(d) * d for weight, d in zip(paired.weights, paired.differences, strict=True)]
    values = np.concatenate([np.empty(0), *weighted])
    observed, values = abs(float(values.sum())), values[values != 0]
    if not len(values):
        return Significance(1.0, "McNemar", exact=True)
    scale = float(np.abs(values).max())
    sizes, counts = np.unique(np.round(np.abs(values) / scale, 12), return_counts=True)
    binary = len(sizes) == 1 and all(np.isin(np.abs(d), (0.0, 1.0)).all() for d in paired.differences)
    threshold = observed / scale - 1e-9
    exact = math.prod(int(count) + 1 for count in counts) <= MAX_ENUMERATED_SUMS
    p = _exact_p(sizes, counts, threshold) if exact else _sampled_p(sizes, counts, threshold, draws, seed)
    return Significance(min(1.0, p), "McNemar" if binary else "sign flips", exact)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected so that the family-wise error rate of all tests is that of one test (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, label in enumerate(sorted(p_values, key=lambda label: p_values[label])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[label]))
        corrected[label] = largest
    return {label: corrected[label] for label in p_values}


def _exact_p(sizes: FloatArray, counts: NDArray[np.int64], threshold: float) -> float:
    """The probability that the absolute sum reaches the threshold, over all sign patterns.

    `counts` says how many values have each size; the number of those with a plus sign is binomial.
    """
    sums, probabilities = np.zeros(1), np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        steps = size * (2 * np.arange(count + 1) - count)
        sums = np.add.outer(sums, steps).ravel()
        probabilities = np.multiply.outer(probabilities, _binomial_probabilities(count)).ravel()
    return float(probabilities[np.abs(sums) >= threshold].sum())


def _sampled_p(sizes: FloatArray, counts: NDArray[np.int64], threshold: float, draws: int, seed: int) -> float:
    """`_exact_p`, estimated from random sign patterns."""
    generator, sums = np.random.default_rng(seed), np.zeros(draws)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        sums += size * (2 * generator.binomial(count, 0.5, draws) - count)
    return (1 + int((np.abs(sums) >= threshold).sum())) / (1 + draws)


def _binomial_probabilities(count: int) -> FloatArray:
    """The probabilities of 0 … count heads in `count` tosses of a fair coin."""
    ways, probabilities = 1, []
    for heads in range(count + 1):
        probabilities.append(ways / (1 << count))  # exact integers of any length, so only this division rounds
        ways = ways * (count - heads) // (heads + 1)
    return np.array(probabilities)


def _resampled_means(values: FloatArray, draws: int, generator: np.random.Generator) -> FloatArray:
    """Means of `draws` resamples: how often each distinct value is drawn is multinomial, which is faster to sample."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values), size=draws)
    means: FloatArray = drawn @ distinct / len(values)
    return means
