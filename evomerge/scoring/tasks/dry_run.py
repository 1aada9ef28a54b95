"""Grading, tried on a few documents before a model is loaded: whether a task's targets are what its metric compares."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from lm_eval.api.instance import Instance

from evomerge.errors import CandidateError, TaskError
from evomerge.scoring import Answer
from evomerge.scoring.tasks.frozen_docs import FrozenDoc, Leaf
from evomerge.scoring.tasks.task_errors import blaming

SAMPLES = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0, "generate_until": Answer("0")}
DOCUMENTS = 8


def rehearse(leaf: Leaf, docs: Mapping[str, FrozenDoc], inline: bool) -> None:
    """TaskError where answers as a model gives them cannot be graded, or none can ever be right.

    A list of several right choices is lm-eval's; a list of one in every document is a slip of a spec written `inline`.
    """
    few = dict(islice(docs.items(), DOCUMENTS))
    if leaf.task.OUTPUT_TYPE == "multiple_choice" and not callable(leaf.task.config.process_results):
        _refuse_targets(leaf, few, inline)
    with suppress(CandidateError):  # a metric may be infinite for such answers
        leaf.grade(few, {item: [_sample(i) for i in doc.instances] for item, doc in few.items()})


def _refuse_targets(leaf: Leaf, docs: Mapping[str, FrozenDoc], inline: bool) -> None:
    where = f"task '{leaf.name}': doc_to_target"
    with blaming(where, "check doc_to_target and doc_to_choice"):
        asked = [doc.instances[0].doc for doc in docs.values()]
        golds = [(leaf.task.doc_to_target(doc), leaf.task.doc_to_choice(doc)) for doc in asked]
    if inline and golds and all(isinstance(gold, list) and len(gold) == 1 for gold, _ in golds):
        raise TaskError(f"{where} is a list of one, {golds[0][0]}, in each document; give its entry")
    if golds and not leaf.task.multiple_input and not any(_names_one(gold, choices) for gold, choices in golds):
        raise TaskError(f"{where} names none of the choices, but {golds[0][0]!r}; give the right one's number or text")


def _names_one(gold: Any, choices: Any) -> bool:
    """Whether a target is the number or the text of a choice, or a list of these."""
    if isinstance(gold, list):
        return any(_names_one(one, choices) for one in gold)
    return 0 <= gold < len(choices) if isinstance(gold, int) else gold in choices


def _sample(instance: Instance) -> Any:
    answer, repeats = SAMPLES[instance.request_type], instance.repeats or 1
    return [answer] * repeats if repeats > 1 else answer
