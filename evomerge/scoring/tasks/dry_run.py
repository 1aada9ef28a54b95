"""A dry run of grading on a few documents before a model is loaded, which finds targets that the metric cannot use."""

import logging
from collections.abc import Mapping, Sequence
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
LETTERS = "abcdefghijklmnopqrstuvwxyz"

log = logging.getLogger(__name__)


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
        _refuse_targets(grader, docs if inline else few, inline)
    with suppress(CandidateError):  # a metric may be infinite for the sample responses
        values = grader.grade(few, {item: [_sample(i) for i in doc.instances] for item, doc in few.items()})
        if grader.aggregate:
            grader.aggregate(list(values.values()))


def _refuse_targets(grader: TaskGrader, docs: Mapping[str, FrozenDoc], inline: bool) -> None:
    where = f"task '{grader.name}': doc_to_target"
    with raising_task_error(where, "check doc_to_target and doc_to_choice"):
        documents = [doc.instances[0].doc for doc in docs.values()]
        golds = [(grader.task.doc_to_target(doc), grader.task.doc_to_choice(doc)) for doc in documents]
    few = golds[:DOCUMENTS]
    if inline and few and all(isinstance(gold, list) and len(gold) == 1 for gold, _ in few):
        raise TaskError(f"{where} is a list of one, {few[0][0]}, in each document; give its entry")
    if few and not grader.task.multiple_input and not any(_names_one(gold, choices) for gold, choices in few):
        remedy = _letters_remedy([gold for gold, _ in few], len(few[0][1]))
        raise TaskError(f"{where} names none of the choices, but {few[0][0]!r}; {remedy}")
    if inline and not grader.task.multiple_input:
        _refuse_counting_from_one(where, golds)
        _warn_of_targets(where, docs, golds)


def _letters_remedy(golds: Sequence[Any], count: int) -> str:
    """What to write instead of targets that name no choice; letters are the usual case."""
    for letters in (LETTERS[:count], LETTERS[:count].upper()):
        if all(isinstance(gold, str) and len(gold) == 1 and gold in letters for gold in golds):
            return f"for the place of a letter, write doc_to_target: \"{{{{'{letters}'.index(COLUMN)}}}}\""
    return "give the right one's number or text"


def _refuse_counting_from_one(where: str, golds: Sequence[tuple[Any, Any]]) -> None:
    """TaskError for places that are never 0 and one past the end: they count from 1, and lm-eval from 0."""
    places = [(gold, len(choices)) for gold, choices in golds if isinstance(gold, int)]
    if len(places) == len(golds) and min(places)[0] >= 1 and any(gold == count for gold, count in places):
        raise TaskError(
            f'{where} counts the choices from 1, lm-eval from 0; write doc_to_target: "{{{{COLUMN|int - 1}}}}"'
        )


def _warn_of_targets(where: str, docs: Mapping[str, FrozenDoc], golds: Sequence[tuple[Any, Any]]) -> None:
    """Warnings of documents with an empty choice, and of those whose target is none of the choices."""
    if empty := [item for item, (_, choices) in zip(docs, golds, strict=True) if "" in choices]:
        remedy = "leave it out, as in {{[a, b, c, d] | select | list}}"
        log.warning(
            "%s: a choice is empty in %d of %d documents, as in %s; %s",
            where.replace("doc_to_target", "doc_to_choice"),
            len(empty),
            len(docs),
            empty[0],
            remedy,
        )
    wrong = [(item, gold) for item, (gold, choices) in zip(docs, golds, strict=True) if not _names_one(gold, choices)]
    if wrong:
        item, gold = wrong[0]
        log.warning(
            "%s names none of the choices in %d of %d documents, as in %s: %r", where, len(wrong), len(docs), item, gold
        )


def _names_one(gold: Any, choices: Any) -> bool:
    """Whether a target is the index or the text of a choice, or a list that contains one."""
    if isinstance(gold, list):
        return any(_names_one(one, choices) for one in gold)
    return 0 <= gold < len(choices) if isinstance(gold, int) else gold in choices


def _sample(instance: Instance) -> Any:
    answer, repeats = SAMPLES[instance.request_type], instance.repeats or 1
    return [answer] * repeats if repeats > 1 else answer
