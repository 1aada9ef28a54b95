"""Which grader a task entry asks for: a metric of lm-eval's, a function of the user's, or the length of the answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evomerge.errors import CandidateError, TaskError
from evomerge.scoring import TOKENS, Answer
from evomerge.scoring.tasks.aggregates import Aggregate, as_record, find_aggregate
from evomerge.scoring.tasks.frozen_docs import FrozenDoc, TaskGrader
from evomerge.scoring.tasks.loading import choose_filter, choose_metric
from evomerge.scoring.tasks.own_functions import OwnFunction, load_function, number_problem
from evomerge.scoring.tasks.scored_item import ScoredItem, make_item
from evomerge.scoring.tasks.task_entries import TaskEntry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE_TEXTS = ("0", "", "yes, it is so.\n")
SAMPLE_VALUES = (-1.0, -30.0)


class TokenCounter:
    """Counts the tokens of generated texts by the model's tokenizer, without special tokens."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase | None") -> None:
        self._tokenizer = tokenizer
        self.count = lru_cache(maxsize=4096)(self._count)

    def of_answers(self, responses: Sequence[Any]) -> list[int]:
        """The length of each generated answer among an item's raw responses, those of repeats one by one."""
        return [self.count(text) for text in texts_of(responses)]

    def _count(self, text: str) -> int:
        if self._tokenizer is None:
            raise TaskError("the length of answers needs the model's tokenizer")
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def texts_of(responses: Sequence[Any]) -> list[str]:
    """The generated texts among an item's raw responses."""
    flat = [one for response in responses for one in (response if isinstance(response, list) else [response])]
    return [one.text for one in flat if isinstance(one, Answer)]


@dataclass(frozen=True)
class OwnGrader(TaskGrader):
    """Grades documents by a function of the user's, on responses that went through the task's filter."""

    score_items: Callable[[Sequence[ScoredItem]], list[Any]]
    counter: TokenCounter

    def grade(self, docs: Mapping[str, FrozenDoc], responses: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Item → score; CandidateError for a score that is not finite, TaskError for one that is not a number."""
        filtered = self.filtered(docs, responses)
        items = [
            make_item(
                item,
                self.task,
                docs[item].instances,
                answers,
                texts_of(responses[item]),
                self.counter.of_answers(responses[item]),
            )
            for item, answers in filtered.items()
        ]
        values = self.score_items(items)
        return {item.id: self._value(item.id, value) for item, value in zip(items, values, strict=True)}

    def check(self, docs: Mapping[str, FrozenDoc]) -> None:
        """TaskError if the function cannot score sample answers to these documents, among them an empty one."""
        samples = SAMPLE_TEXTS if self.task.OUTPUT_TYPE == "generate_until" else SAMPLE_VALUES
        for number in range(len(samples)):
            answers = {item: [_sample(i, samples[number]) for i in doc.instances] for item, doc in docs.items()}
            try:
                values = list(self.grade(docs, answers).values())
            except CandidateError as error:
                reason = str(error).partition("; ")[0]
                shown = f" for the sample answer {samples[number]!r}" * isinstance(samples[number], str)
                raise TaskError(f"{reason}{shown}; return a finite number for every answer") from None
            if self.aggregate:
                self.aggregate(values)

    def _value(self, item: str, value: Any) -> Any:
        if self.aggregate:
            return as_record(value, item)
        problem = number_problem(value)
        if problem and problem.endswith("not a number"):
            raise TaskError(f"item {item}: its score by {self.metric} {problem}; return one number for each item")
        if problem:
            raise CandidateError(f"item {item}: its score by {self.metric} {problem}")
        return self.sign * float(value)


def make_grader(
    shown: str,
    task: Task,
    entry: TaskEntry,
    metric: str | None,
    counter: TokenCounter,
    load: Callable[[str, str], OwnFunction] = load_function,
) -> TaskGrader:
    """The grader of a task by its entry; TaskError if it cannot be made. `load` finds functions of the user's."""
    pipeline = choose_filter(shown, task, entry.filter)
    sign = -1.0 if entry.higher_is_better is False else 1.0
    aggregate = entry.aggregate and load(entry.aggregate, f"task '{entry.name}': aggregate")
    own = Aggregate(aggregate.name, sign, aggregate) if aggregate else None
    if entry.score:
        function = load(entry.score, f"task '{entry.name}': score")
        return OwnGrader(shown, task, entry.score, sign, pipeline, own, function.values, counter)
    if metric == TOKENS and TOKENS not in task.aggregation():
        if task.OUTPUT_TYPE != "generate_until":
            raise TaskError(f"task '{shown}' generates no answers, so it has no metric '{TOKENS}'; name another")
        return OwnGrader(shown, task, TOKENS, -1.0, pipeline, None, _token_counts, counter)
    chosen = choose_metric(shown, task, metric, own is not None)
    known = find_aggregate(chosen.aggregation, chosen.sign) if chosen.aggregation else None
    return TaskGrader(shown, task, chosen.name, chosen.sign, pipeline, own or known)


def _token_counts(items: Sequence[ScoredItem]) -> list[float]:
    return [item.tokens for item in items]


def _sample(instance: Instance, sample: Any) -> Any:
    answer = sample if instance.request_type == "loglikelihood_rolling" else Answer(sample)
    if instance.request_type == "loglikelihood":
        answer = (sample * (1 + instance.idx), False)
    return [answer] * instance.repeats if (instance.repeats or 1) > 1 else answer
