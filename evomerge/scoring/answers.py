"""How many generated answers are worth little: cut off at their limit, empty, or without what a filter looks for."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge.scoring.protocol import Answer, Counts

KINDS = ("truncated", "empty", "unparsable")
UNREAD = "\0unparsable\0"  # no model says this


def text_of(response: Any) -> Any:
    """A response as lm-eval's filters take it: a generated answer is its text."""
    if isinstance(response, list):
        return [text_of(one) for one in response]
    return response.text if isinstance(response, Answer) else response


def count_answers(
    answers: Sequence[Sequence[Answer]], docs: Sequence[Mapping[str, Any]], filters: Sequence[Any]
) -> Counts:
    """Counts over the answers to each request, whose documents and filter steps these are."""
    said = [answer for own in answers for answer in own]
    return {
        "answers": len(said),
        "truncated": sum(answer.truncated for answer in said),
        "empty": sum(not answer.text.strip() for answer in said),
        "unparsable": _unread([[answer.text for answer in own] for own in answers], docs, filters),
    }


def add_counts(counts: Sequence[Counts]) -> Counts:
    """The sum of counts; empty where nothing was generated."""
    return {kind: sum(one[kind] for one in counts) for kind in ("answers", *KINDS) if any(counts)}


def significantly_more(theirs: Mapping[str, int], ours: Mapping[str, int], kind: str) -> bool:
    """Whether a kind makes up more of their answers, by 5 points at least and by two standard errors."""
    total, own = theirs["answers"], ours["answers"]
    ahead = theirs[kind] / total - ours[kind] / own
    pooled = (theirs[kind] + ours[kind]) / (total + own)
    return ahead >= 0.05 and ahead > 2 * math.sqrt(pooled * (1 - pooled) * (1 / total + 1 / own))


def _unread(texts: list[list[str]], docs: Sequence[Mapping[str, Any]], filters: Sequence[Callable[[], Any]]) -> int:
    """Answers for which a filter step fell back: each is given a fallback of its own, which no answer can equal."""
    found, responses = 0, texts
    for make in filters:
        step = make()
        fallback = getattr(step, "fallback", None)
        if fallback is None:
            responses = step.apply(responses, docs)
            continue
        step.fallback = UNREAD
        read = [list(own) for own in step.apply(responses, docs)]
        found += sum(value == UNREAD for own in read for value in own)
        responses = [[fallback if value == UNREAD else value for value in own] for own in read]
    return found
