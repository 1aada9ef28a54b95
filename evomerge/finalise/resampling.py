"""Paired bootstrap of scores that are no mean over items, such as F1 or BLEU, which are computed on each resample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.finalise.statistics import ConfidenceInterval, FloatArray, PairedTest, Significance, holm
from evomerge.scoring import length_of, task_of
from evomerge.searching import Evaluator

DRAWS = 1000  # as each draw computes the metric of each model, which takes milliseconds


@dataclass(frozen=True)
class ResampledScore:
    """The score of a model on a slice, and its scores on resamples of the slice's items."""

    score: float
    draws: FloatArray


@dataclass(frozen=True)
class ResampledDifference:
    """The difference between the scores of two models, and those on the same resamples; without undefined ones."""

    difference: float
    draws: FloatArray

    @classmethod
    def of(cls, first: Sequence[ResampledScore], second: ResampledScore) -> "ResampledDifference":
        """The mean of the first models minus the second one."""
        difference = float(np.mean([one.score for one in first])) - second.score
        draws = np.mean([one.draws for one in first], axis=0) - second.draws
        return cls(difference, draws[np.isfinite(draws)])

    @property
    def standard_error(self) -> float:
        """The standard deviation of the difference over the resamples."""
        return float(self.draws.std(ddof=1)) if len(self.draws) > 1 else 0.0

    def interval(self, level: float = 0.95) -> ConfidenceInterval:
        """The percentile interval (Efron & Tibshirani 1993, ch. 13)."""
        draws = self.draws if len(self.draws) else np.zeros(1)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return ConfidenceInterval(self.difference, float(low), float(high), level)

    @property
    def significance(self) -> Significance:
        """Twice the share of resamples on the other side of 0, at least one of them (Davison & Hinkley 1997, ch. 4)."""
        beyond = min(int((self.draws <= 0).sum()), int((self.draws >= 0).sum()))
        return Significance(min(1.0, 2 * (1 + beyond) / (1 + len(self.draws))), "bootstrap", exact=False)


class Resampler:
    """Scores models on resamples of a slice: items are drawn with replacement within their task, equally for all."""

    def __init__(self, evaluator: Evaluator, slice_name: str, seed: int, draws: int = DRAWS) -> None:
        self._evaluator, self._slice, generator = evaluator, slice_name, np.random.default_rng(seed)
        by_task: dict[str, list[str]] = {}
        for item in evaluator.plan.items(slice_name):
            by_task.setdefault(task_of(item), []).append(item)
        self._items = {task: by_task[task] for task in evaluator.objective.weights if task in by_task}
        sizes = {task: len(items) for task, items in self._items.items()}
        self._drawn = [{t: generator.integers(size, size=size) for t, size in sizes.items()} for _ in range(draws)]
        self._references = evaluator.baseline_means(slice_name)

    def of(self, key: str) -> ResampledScore:
        """The scores of a model, which must be scored on the whole slice."""
        scores = self._evaluator.item_scores(key, self._slice)
        lengths = self._evaluator.item_lengths(key, self._slice)
        values = {task: [scores[item] for item in items] for task, items in self._items.items()}
        counts = {task: np.array([lengths[i] for i in items if i in lengths]) for task, items in self._items.items()}
        draws = [self._score(values, counts, drawn) for drawn in self._drawn]
        return ResampledScore(self._evaluator.score(key, self._slice), np.array(draws))

    def _score(
        self,
        values: Mapping[str, list[object]],
        counts: Mapping[str, FloatArray],
        drawn: Mapping[str, NDArray[np.int64]],
    ) -> float:
        aggregates, means = self._evaluator.plan.aggregates, {}
        for task, places in drawn.items():
            resampled = [values[task][place] for place in places.tolist()]
            aggregate = aggregates.get(task)
            means[task] = aggregate.compute(resampled) if aggregate else float(np.mean(np.array(resampled, float)))
            if len(counts[task]) == len(places):
                means[length_of(task)] = -float(counts[task][places].mean())
        return self._evaluator.objective.fitness(means, self._references).score


def compare_resampled(winner: ResampledScore, others: Mapping[str, ResampledScore]) -> tuple[PairedTest, ...]:
    """Compare the winner with each other model; p-values are corrected for their number."""
    found = {label: ResampledDifference.of([winner], other) for label, other in others.items()}
    corrected = holm({label: one.significance.p for label, one in found.items()})
    return tuple(PairedTest(label, one.interval(), one.significance, corrected[label]) for label, one in found.items())
