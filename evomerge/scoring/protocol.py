"""Tasks frozen once and scored many times: what the rest of evomerge knows about scoring.

The driver owns a `Scorer`; a worker owns a `ScoringEngine` around its live model. Between them travel `Request`s,
tokenised and planned, one way and raw responses the other, so a worker needs no task and no data set.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

SLICES = ("search", "select", "holdout")


@dataclass(frozen=True)
class Request:
    """One question to a model, picklable and free of documents.

    `kind` is lm-eval's request type and `arguments` what it takes: (context, continuation) for
    `loglikelihood`, (text,) for `loglikelihood_rolling`, (context, options) for `generate_until`. A response
    is (log-likelihood in nats, is greedy), a log-likelihood, or an `Answer`; with `repeats` > 1 a list of these.
    """

    kind: str
    arguments: tuple[Any, ...]
    repeats: int = 1


@dataclass(frozen=True)
class Answer:
    """A generated text; truncated when it reached its token limit before a stop sequence or an end token."""

    text: str
    truncated: bool = False


Counts = dict[str, int]
"""Of generated answers: how many `answers`, and how many of them `truncated`, `empty` or `unparsable`."""


@dataclass(frozen=True)
class Chunk:
    """A fixed batch of items, the unit of scoring work: `search/0` holds ids such as `mmlu/mmlu_law/17`."""

    id: str
    slice: str
    items: tuple[str, ...]


def task_of(item: str) -> str:
    """The task entry that an item belongs to: the text before its first slash."""
    return item.partition("/")[0]


@dataclass(frozen=True)
class Plan:
    """Every slice as its chunks, and the weight of every task in the score."""

    chunks: Mapping[str, tuple[Chunk, ...]]
    weights: Mapping[str, float]

    def items(self, slice: str) -> tuple[str, ...]:
        """The item ids of a slice, in chunk order."""
        return tuple(item for chunk in self.chunks[slice] for item in chunk.items)

    def by_task(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The mean over the items of each task that `scores` holds, in any order; a task without items is absent."""
        values: dict[str, list[float]] = {}
        for item, score in scores.items():
            values.setdefault(task_of(item), []).append(score)
        return {task: math.fsum(values[task]) / len(values[task]) for task in self.weights if task in values}

    def score(self, scores: Mapping[str, float]) -> float:
        """The weighted mean of the task means, over the tasks that `scores` holds; ValueError on none."""
        means = self.by_task(scores)
        if not means:
            raise ValueError("no item scores to take a mean of")
        total = sum(self.weights[task] for task in means)
        return sum(self.weights[task] * mean for task, mean in means.items()) / total


class Scorer(Protocol):
    """The driver's side: turns a chunk into requests and their raw responses into item scores."""

    plan: Plan

    @property
    def fingerprint(self) -> str:
        """A hash of every item's prompt and answer: scores of another one are not comparable."""

    def requests(self, chunk: Chunk) -> tuple[Request, ...]:
        """The requests of a chunk, in an order that never changes."""

    def grade(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        """Item scores, higher is better, from the responses to `requests(chunk)` in their order."""

    def answers(self, chunk: Chunk, responses: Sequence[Any]) -> Counts:
        """What became of the generated answers among these responses; empty where nothing was generated."""
