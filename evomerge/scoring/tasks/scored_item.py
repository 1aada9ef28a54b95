"""One item with the answer of a model, as a scoring function of the user's gets it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task


@dataclass(frozen=True)
class ScoredItem:
    """An item and a model's answer to it; docs/scores.md describes each attribute.

    `responses` has one response for each request, after the task's filter: a text, or (log-likelihood in nats, is
    greedy), or a log-likelihood. `raw` has the texts before the filter, `lengths` their lengths in tokens.
    """

    id: str
    prompt: str
    responses: tuple[Any, ...]
    raw: tuple[str, ...]
    lengths: tuple[int, ...]
    _task: Task
    _doc: Any

    @cached_property
    def doc(self) -> Any:
        """The document, usually a dict of its columns; a copy, which may be changed."""
        return copy.deepcopy(self._doc)

    @property
    def text(self) -> str:
        """The generated answer after the task's filter; the first one if there are several."""
        return self.texts[0]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All generated answers after the filter: one, or as many as the task's `repeats`."""
        if not self.raw:
            raise AttributeError(f"item {self.id} has no text: its task generates no answers; use loglikelihoods")
        listed = (one for response in self.responses for one in (response if _is_list(response) else [response]))
        return tuple(map(str, listed))

    @property
    def raw_text(self) -> str:
        """The generated answer before the filter."""
        return self.raw[0] if self.raw else self.text

    @property
    def tokens(self) -> float:
        """The length of the generated answer in tokens of the model's tokenizer; the mean of several answers."""
        if not self.lengths:
            raise AttributeError(f"item {self.id} has no tokens: its task generates no answers; use loglikelihoods")
        return sum(self.lengths) / len(self.lengths)

    @cached_property
    def loglikelihoods(self) -> tuple[float, ...]:
        """The log-likelihood of each choice in nats; of a task without choices, that of each request."""
        if self.raw:
            raise AttributeError(f"item {self.id} has no loglikelihoods: its task generates answers; use text")
        values = tuple(float(one[0] if _is_list(one) else one) for one in self.responses)
        return values[: len(self.choices)] if self.choices else values

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The texts of the choices; empty for a task without choices."""
        if self._task.OUTPUT_TYPE != "multiple_choice":
            return ()
        return tuple(map(str, self._task.doc_to_choice(self._doc)))

    @cached_property
    def target(self) -> Any:
        """The right answer: a choice's number from 0, else a text; a list if the task has several right answers."""
        return right_answer(self._task, self._doc)


def right_answer(task: Task, doc: Any) -> Any:
    """The number of the right choice of a document, or its target text; a list where there are several."""
    target = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = list(task.doc_to_choice(doc))
        return [_number(one, choices) for one in target] if _is_list(target) else _number(target, choices)
    if type(target) is int and task.config.doc_to_choice is not None:
        return task.doc_to_choice(doc)[target]
    return list(target) if _is_list(target) else target


def make_item(
    item: str,
    task: Task,
    instances: Sequence[Instance],
    filtered: Sequence[Any],
    raw: Sequence[str],
    lengths: list[int],
) -> ScoredItem:
    """An item from lm-eval's instances of its requests and their filtered responses."""
    first = instances[0]
    return ScoredItem(item, str(first.args[0]), tuple(filtered), tuple(raw), tuple(lengths), task, first.doc)


def _number(target: Any, choices: list[Any]) -> Any:
    return choices.index(target) if isinstance(target, str) and target in choices else target


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
