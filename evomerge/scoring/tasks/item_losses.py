"""The differentiable loss of an item, from lm-eval's own task: its right choice, its target text, or its text."""

from collections.abc import Callable, Mapping
from typing import Any

from evomerge.scoring import ItemLoss, Request
from evomerge.scoring.tasks.frozen_docs import FrozenDoc, TaskGrader
from evomerge.scoring.tasks.scored_item import right_answer

CHOSEN, REFUSED = (0.0, True), (-1e4, False)  # answers of a model that is certain of one choice
LENGTHS: Mapping[str, Callable[[str], int]] = {"acc_norm": len, "acc_bytes": lambda text: len(text.encode())}


def item_loss(item: str, grader: TaskGrader, doc: FrozenDoc, chat: bool = False) -> ItemLoss | None:
    """The loss of an item; None if the task has neither a right choice nor a target text.

    The choices of `acc_norm` and `acc_bytes` are divided by their lengths as in lm-eval. With `chat`, prompts are
    conversations, so a target text begins a turn of its own.
    """
    kind = grader.task.OUTPUT_TYPE
    if kind == "multiple_choice":
        return _of_choices(item, grader, doc)
    if kind in ("loglikelihood", "loglikelihood_rolling"):
        requests = doc.requests()
        return ItemLoss(requests) if all(request.arguments[-1] for request in requests) else None  # not of no text
    target = _target(grader.task, doc.instances[0].doc)
    if not target:
        return None
    context = doc.instances[0].args[0]
    return ItemLoss((Request("loglikelihood", (context, _delimiter(grader.task.config, context, chat) + target)),))


def chance_of(grader: TaskGrader, doc: FrozenDoc) -> float | None:
    """The probability that a guess among the choices is right; None without choices, or for another metric."""
    if grader.task.OUTPUT_TYPE != "multiple_choice" or grader.metric not in ("acc", *LENGTHS):
        return None
    contexts = [instance.args[0] for instance in doc.instances]
    choices = contexts.count(contexts[0])  # mutual information has further requests, with another context
    return 1 / (choices if choices > 1 else len(contexts))  # several contexts of one continuation are choices too


def _of_choices(item: str, grader: TaskGrader, doc: FrozenDoc) -> ItemLoss | None:
    """The choices of an item; the right one is the one whose answer gets the highest score.

    No key of the task's configuration has to be interpreted for that: the right answer may follow from any of several.
    """
    document = doc.instances[0].doc
    choices = grader.task.doc_to_choice(document)
    if grader.aggregate:  # its values are no scores
        gold = right_answer(grader.task, document)
        known = type(gold) is int and gold in range(len(choices))
        return ItemLoss(doc.requests()[: len(choices)], gold) if known else None
    count, every = len(choices), len(doc.instances)  # there are further requests for mutual information
    scores = []
    for chosen in range(count):
        answers = [CHOSEN if place == chosen else REFUSED for place in range(count)] + [CHOSEN] * (every - count)
        scores.append(grader.grade({item: doc}, {item: answers})[item])
    if min(scores) == max(scores):
        return None
    length = LENGTHS.get(grader.metric)
    lengths = None if length is None else tuple(float(max(1, length(choice))) for choice in choices)
    return ItemLoss(doc.requests()[:count], scores.index(max(scores)), lengths)


def _delimiter(config: Any, context: str, chat: bool) -> str:
    """The text between a prompt and its target, as between the question and the answer of a few-shot example."""
    if getattr(config, "gen_prefix", None):
        return "" if context[-1:].isspace() else " "
    return "" if chat else str(getattr(config, "target_delimiter", " "))


def _target(task: Any, doc: Any) -> str | None:
    """The target text of a generation task; the first one if there are several."""
    config = task.config
    try:
        target = task.doc_to_target(doc)
        if isinstance(target, list | tuple):
            target = target[0] if target else None
        if type(target) is int and config.doc_to_choice is not None:
            target = task.doc_to_choice(doc)[target]
    except Exception:  # a task may have no target, or compute it by code that fails
        return None
    is_placeholder = not isinstance(config.doc_to_target, str)
    if type(target) in (int, float) and not is_placeholder:  # a column of numbers
        target = str(target)
    return target.strip() or None if isinstance(target, str) else None
