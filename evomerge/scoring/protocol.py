"""The interface of scoring: items, slices and chunks, requests to a model, and the scorer that grades responses.

The driver has a `Scorer`, each worker a `ScoringEngine` around its live model. Workers get tokenised requests and
return raw responses, so they need no tasks and no data sets.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

SLICES = ("search", "select", "holdout")
TOKENS = "tokens"


@dataclass(frozen=True)
class Request:
    """One request to a model, picklable and without its document.

    `kind` is lm-eval's request type and `arguments` its arguments: (context, continuation) for `loglikelihood`, (text,)
    for `loglikelihood_rolling`, (context, options) for `generate_until`, where the context may be token ids. The
    response is (log-likelihood in nats, is greedy), a log-likelihood, or an `Answer`; with `repeats` > 1 it is a list
    of these.
    """

    kind: str
    arguments: tuple[Any, ...]
    repeats: int = 1


@dataclass(frozen=True)
class ItemLoss:
    """A differentiable loss of one item, computed from the log-likelihoods of its requests.

    With `gold`, the requests are choices and the loss is −log softmax at the right one, after each log-likelihood is
    divided by the choice's `lengths`. Without it, the loss is the mean negative log-likelihood of a token.
    """

    requests: tuple[Request, ...]
    gold: int | None = None
    lengths: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """A generated text; `truncated` if it reached its token limit before a stop sequence or an end token."""

    text: str
    truncated: bool = False


Counts = dict[str, int]
"""The number of generated `answers`, and of those that are `truncated`, `empty` or `unparsable`."""


@dataclass(frozen=True)
class Chunk:
    """A fixed batch of items, the unit of scoring; `search/0` is such an id, `mmlu/mmlu_law/17` the id of an item."""

    id: str
    slice: str
    items: tuple[str, ...]


def task_of(item: str) -> str:
    """The task entry that an item belongs to: the text before its first slash."""
    return item.partition("/")[0]


def length_of(task: str) -> str:
    """The name of a task's measure of length: the mean length of its answers in tokens, negated."""
    return f"{task}.{TOKENS}"


class CorpusMetric(Protocol):
    """A metric that is computed from the values of all items together; `name` and `sign` identify it in a ledger."""

    @property
    def name(self) -> str:
        """A name by which it is found again."""

    @property
    def sign(self) -> float:
        """-1 if lower values of the metric are better."""

    def __call__(self, values: Sequence[Any]) -> float:
        """The metric, higher is better; NaN if it is not finite. Values are remembered."""

    def compute(self, values: Sequence[Any]) -> float:
        """The same, not remembered."""


@dataclass(frozen=True)
class Plan:
    """Slice → its chunks, and task → its weight in the score.

    `aggregates` has the metric of each task whose score is not the mean of its items. `generating` lists the tasks that
    generate answers.
    """

    chunks: Mapping[str, tuple[Chunk, ...]]
    weights: Mapping[str, float]
    aggregates: Mapping[str, CorpusMetric] = field(default_factory=dict)
    generating: tuple[str, ...] = ()

    def items(self, slice: str) -> tuple[str, ...]:
        """The item ids of a slice, in chunk order."""
        return tuple(item for chunk in self.chunks[slice] for item in chunk.items)

    def by_task(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """Task → mean of its item scores, or its corpus-level metric, for the tasks that have items in `scores`."""
        values = _by_task(scores)
        return {task: self._of_task(task, values[task]) for task in self.weights if task in values}

    def measures(self, scores: Mapping[str, Any], lengths: Mapping[str, float]) -> dict[str, float]:
        """`by_task`, and the measures of length: `TASK.tokens` of each task in `lengths`, and `tokens` of all together.

        Lengths are negated, because higher is better. `tokens` is the mean over the tasks by their weights.
        """
        values = _by_task(lengths)
        found = {task: -math.fsum(values[task]) / len(values[task]) for task in self.weights if task in values}
        if not found:
            return self.by_task(scores)
        total = sum(self.weights[task] for task in found)
        mean = sum(self.weights[task] * value for task, value in found.items()) / total
        return {TOKENS: mean} | {length_of(task): value for task, value in found.items()} | self.by_task(scores)

    def _of_task(self, task: str, values: Sequence[Any]) -> float:
        aggregate = self.aggregates.get(task)
        return aggregate(values) if aggregate else math.fsum(values) / len(values)

    def score(self, scores: Mapping[str, Any]) -> float:
        """The weighted mean of the task means, over the tasks that have items in `scores`; ValueError if none has."""
        means = self.by_task(scores)
        if not means:
            raise ValueError("no item scores to take a mean of")
        total = sum(self.weights[task] for task in means)
        return sum(self.weights[task] * mean for task, mean in means.items()) / total


def _by_task(values: Mapping[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for item, value in values.items():
        found.setdefault(task_of(item), []).append(value)
    return found


class Scorer(Protocol):
    """The driver's part of scoring: the requests of a chunk, and item scores from their raw responses."""

    plan: Plan

    @property
    def fingerprint(self) -> str:
        """A hash of every item's prompt and answer; scores with different fingerprints are not comparable."""

    @property
    def functions(self) -> Mapping[str, str]:
        """The scoring functions of the user's → hashes of their source files."""

    def requests(self, chunk: Chunk) -> tuple[Request, ...]:
        """The requests of a chunk, in a fixed order."""

    def grade(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, Any]:
        """Item → score, higher is better, from the responses to `requests(chunk)` in the same order.

        For a task with a corpus-level metric, the value of JSON from which the metric is computed.
        """

    def lengths(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        """Item → the length of its generated answers in tokens, for items with such answers."""

    def answers(self, chunk: Chunk, responses: Sequence[Any]) -> Counts:
        """Counts of the generated answers among these responses; empty if nothing was generated."""

    def loss(self, item: str) -> ItemLoss | None:
        """The differentiable loss of an item; None if its task has no right choice and no target text."""
