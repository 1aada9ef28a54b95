"""Counts of problematic generated answers: truncated at the token limit, empty, or not matched by a filter."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge.scoring.protocol import Answer, Counts

ANSWER_PROBLEMS = ("truncated", "empty", "unparsable")
UNPARSABLE = "\0unparsable\0"  # a fallback that no model generates


def response_text(response: Any) -> Any:
    """A response in the form that lm-eval's filters take: generated answers are replaced by their texts."""
    if isinstance(response, list):
        return [response_text(one) for one in response]
    return response.text if isinstance(response, Answer) else response


def count_answers(
    answers: Sequence[Sequence[Answer]], docs: Sequence[Mapping[str, Any]], filters: Sequence[Any]
) -> Counts:
    """Counts of answers and of problematic ones; `answers` and `docs` have one entry per request.

    `filters` are the constructors of the task's filter steps.
    """
    flat = [answer for repeats in answers for answer in repeats]
    return {
        "answers": len(flat),
        "truncated": sum(answer.truncated for answer in flat),
        "empty": sum(not answer.text.strip() for answer in flat),
        "unparsable": _count_unparsable([[answer.text for answer in repeats] for repeats in answers], docs, filters),
    }


def add_counts(counts: Sequence[Counts]) -> Counts:
    """The sum of some counts; empty if nothing was generated."""
    return {kind: sum(one[kind] for one in counts) for kind in ("answers", *ANSWER_PROBLEMS) if any(counts)}


def significantly_more(theirs: Mapping[str, int], ours: Mapping[str, int], kind: str) -> bool:
    """Whether the share of a kind in `theirs` exceeds that in `ours` by 5 points and by two standard errors."""
    their_total, our_total = theirs["answers"], ours["answers"]
    difference = theirs[kind] / their_total - ours[kind] / our_total
    pooled = (theirs[kind] + ours[kind]) / (their_total + our_total)
    error = math.sqrt(pooled * (1 - pooled) * (1 / their_total + 1 / our_total))
    return difference >= 0.05 and difference > 2 * error


def _count_unparsable(
    texts: list[list[str]], docs: Sequence[Mapping[str, Any]], filters: Sequence[Callable[[], Any]]
) -> int:
    """The number of answers for which a filter step used its fallback, recognised by a text that no model generates."""
    found, responses = 0, texts
    for make in filters:
        step = make()
        fallback = getattr(step, "fallback", None)
        if fallback is None:
            responses = step.apply(responses, docs)
            continue
        step.fallback = UNPARSABLE
        filtered = [list(repeats) for repeats in step.apply(responses, docs)]
        found += sum(value == UNPARSABLE for repeats in filtered for value in repeats)
        responses = [[fallback if value == UNPARSABLE else value for value in repeats] for repeats in filtered]
    return found
