"""A dry run of grading on a few documents before a model is loaded, which finds targets that the metric cannot use."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from lm_eval.api.instance import Instance

from evomerge.errors import CandidateError, TaskError
from evomerge.scoring import Answer
from evomerge.scoring.tasks.frozen_docs import FrozenDoc, TaskGrader
from evomerge.scoring.tasks.graders import OwnGrader
from evomerge.scoring.tasks.task_errors import raising_task_error

SAMPLES = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0, "generate_until": Answer("0")}
DOCUMENTS = 8


def check_grading(grader: TaskGrader, docs: Mapping[str, FrozenDoc], inline: bool) -> None:
    """TaskError if sample responses cannot be graded, or if no response can be right.

    lm-eval accepts a list of several right choices as the target. A list of one in every document is an error in a task
    specification that is written `inline` in the experiment.
    """
    few = dict(islice(docs.items(), DOCUMENTS))
    if isinstance(grader, OwnGrader):
        grader.check(few)
        return
    if grader.task.OUTPUT_TYPE == "multiple_choice" and not callable(grader.task.config.process_results):
        _refuse_targets(grader, few, inline)
    with suppress(CandidateError):  # a metric may be infinite for the sample responses
        values = grader.grade(few, {item: [_sample(i) for i in doc.instances] for item, doc in few.items()})
        if grader.aggregate:
            grader.aggregate(list(values.values()))


def _refuse_targets(grader: TaskGrader, docs: Mapping[str, FrozenDoc], inline: bool) -> None:
    where = f"task '{grader.name}': doc_to_target"
    with raising_task_error(where, "check doc_to_target and doc_to_choice"):
        documents = [doc.instances[0].doc for doc in docs.values()]
        golds = [(grader.task.doc_to_target(doc), grader.task.doc_to_choice(doc)) for doc in documents]
    if inline and golds and all(isinstance(gold, list) and len(gold) == 1 for gold, _ in golds):
        raise TaskError(f"{where} is a list of one, {golds[0][0]}, in each document; give its entry")
    if golds and not grader.task.multiple_input and not any(_names_one(gold, choices) for gold, choices in golds):
        raise TaskError(f"{where} names none of the choices, but {golds[0][0]!r}; give the right one's number or text")


def _names_one(gold: Any, choices: Any) -> bool:
    """Whether a target is the index or the text of a choice, or a list that contains one."""
    if isinstance(gold, list):
        return any(_names_one(one, choices) for one in gold)
    return 0 <= gold < len(choices) if isinstance(gold, int) else gold in choices


def _sample(instance: Instance) -> Any:
    answer, repeats = SAMPLES[instance.request_type], instance.repeats or 1
    return [answer] * repeats if repeats > 1 else answer
