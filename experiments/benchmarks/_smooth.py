"""Smooth scores of one item, from the log-likelihoods of its choices; higher is better."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.scoring import Chunk, Counts, ItemLoss, Plan, Request, Scorer

Matrix = NDArray[np.float64]
Smooth = Callable[[Matrix, int, Matrix], Matrix]  # log-likelihoods [rows, choices], the right choice, the metric [rows]
WORST = -4.0  # a log-probability is not lower: a single item would outweigh all others


def log_probability(choices: Matrix, gold: int, temperature: float = 1.0) -> Matrix:
    """Of the right choice, in nats, by softmax over the choices."""
    scaled = (choices - choices.max(1, keepdims=True)) / temperature
    found: Matrix = scaled[:, gold] - np.log(np.exp(scaled).sum(1))
    return found


def probability(temperature: float) -> Smooth:
    """The probability of the right choice at a temperature; towards 0 it is the metric."""
    return lambda choices, gold, _: np.exp(log_probability(choices, gold, temperature))


def bounded_log_probability(choices: Matrix, gold: int, _: Matrix) -> Matrix:
    """The log-probability of the right choice, at least WORST."""
    return np.maximum(WORST, log_probability(choices, gold))


def margin(choices: Matrix, gold: int, _: Matrix) -> Matrix:
    """Log-likelihood of the right choice minus that of the best wrong one, within −4 … 4 nats."""
    return np.clip(choices[:, gold] - np.delete(choices, gold, 1).max(1), WORST, -WORST)


def mixture(choices: Matrix, gold: int, metric: Matrix) -> Matrix:
    """The mean of metric and probability."""
    return (metric + np.exp(log_probability(choices, gold))) / 2


SMOOTH: Mapping[str, Smooth] = {
    "metric": lambda choices, gold, metric: metric,
    "probability": probability(1.0),
    "probability, T=0.3": probability(0.3),
    "probability, T=0.5": probability(0.5),
    "probability, T=2": probability(2.0),
    "probability, T=4": probability(4.0),
    "log-probability": bounded_log_probability,
    "margin": margin,
    "metric + probability": mixture,
}


class SmoothScorer:
    """A scorer that grades items of the search slice by a smooth score, those of the other slices by the metric.

    Items without a right choice keep the metric.
    """

    def __init__(self, scorer: Scorer, smooth: Smooth) -> None:
        self.plan: Plan = scorer.plan
        self._scorer, self._smooth = scorer, smooth
        self._losses = {item: self._choices(item) for item in scorer.plan.items("search")}

    @property
    def fingerprint(self) -> str:
        """Of the scorer of the metric."""
        return self._scorer.fingerprint

    @property
    def functions(self) -> Mapping[str, str]:
        """As the scorer of the metric has it."""
        return self._scorer.functions

    def requests(self, chunk: Chunk) -> tuple[Request, ...]:
        """Those of the metric."""
        return self._scorer.requests(chunk)

    def grade(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        """Item → smooth score, or metric outside of the search slice."""
        scores = self._scorer.grade(chunk, responses)
        if chunk.slice != "search":
            return scores
        answers = iter(responses)
        for item in chunk.items:
            count = len(self._scorer.requests(Chunk(chunk.id, chunk.slice, (item,))))
            own, loss = [next(answers) for _ in range(count)], self._losses[item]
            if loss is not None and loss.gold is not None:
                found = np.array([[float(answer[0]) for answer in own[: len(loss.requests)]]]) / (loss.lengths or 1.0)
                scores[item] = float(self._smooth(found, loss.gold, np.array([scores[item]]))[0])
        return scores

    def answers(self, chunk: Chunk, responses: Sequence[Any]) -> Counts:
        """As the scorer of the metric has it."""
        return self._scorer.answers(chunk, responses)

    def lengths(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        """As the scorer of the metric has it."""
        return self._scorer.lengths(chunk, responses)

    def loss(self, item: str) -> ItemLoss | None:
        """As the scorer of the metric has it."""
        return self._scorer.loss(item)

    def _choices(self, item: str) -> ItemLoss | None:
        loss = self._scorer.loss(item)
        return loss if loss is not None and loss.gold is not None else None
