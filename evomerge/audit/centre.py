"""Findings about the centre of a family: an expert that is the base of the others, or a part that all experts share."""

from collections.abc import Iterator

import numpy as np

from evomerge.audit.finding import Finding
from evomerge.audit.survey import Survey

CONTAINED = (0.8, 1.2)  # quartiles over the matrices of ⟨δ, δ'⟩/‖δ'‖²: 1 if δ is δ' plus something independent
FEW = 4  # matrices; with fewer, quartiles say nothing
DOUBLE = 0.95  # cosine beyond which each of two deltas contains the other
SAME = 0.999  # cosine: duplicates are another finding
INDEPENDENT = 0.35  # mean cosine of the deltas from the right base
SHARED = 0.4  # cosine of every pair of experts that were trained from a third model; real families have 0.1


def centres(survey: Survey) -> Iterator[Finding]:
    """At most one finding: the family has another centre than the base."""
    experts = [i for i in range(len(survey.labels)) if survey.norms[i] > 0]
    cosines = survey.cosines[np.ix_(experts, experts)][np.triu_indices(len(experts), 1)]
    if (centre := common_centre(survey)) is not None:
        label = survey.labels[centre]
        evidence = f"every other delta is that of {label} plus another one, as if all were trained from it"
        remedy = f"give {label} as the base; if it is an expert that the others were trained on from, leave it out"
        yield Finding("base and expert swapped", (label,), "warning", evidence, remedy)
    elif len(experts) > 2 and SAME > (least := float(cosines.min())) > SHARED:
        who = tuple(survey.labels[i] for i in experts)
        evidence = f"all deltas have a part in common that the base lacks (cosines of at least {least:.2f})"
        remedy = "check that they were trained from this base, and not from another version of it, such as instruct"
        yield Finding("wrong base", who, "warning", evidence, remedy)


def common_centre(survey: Survey) -> int | None:
    """The expert that the deltas of all others contain, if there is one.

    From a base that is itself a fine-tuning, δ₀, of the true base, the true base has the delta −δ₀ and every other
    expert −δ₀ + δ.
    """
    experts = [i for i in range(len(survey.labels)) if survey.norms[i] > 0]
    for centre in experts:
        others = [i for i in experts if i != centre]
        if others and all(contains(survey, other, centre) for other in others):
            return centre if _mean_cosine(survey, centre, others) < INDEPENDENT else None
    return None


def _mean_cosine(survey: Survey, centre: int, others: list[int]) -> float:
    """The mean magnitude of the cosines of the other experts as seen from one of them; 0 for a single other."""
    gram, place = survey.gram, np.ix_(others, others)
    inner = gram[place] - gram[others, centre][:, None] - gram[centre, others][None] + gram[centre, centre]
    lengths = np.sqrt(np.clip(np.diag(inner), 1e-300, None))
    cosines = np.abs(inner / np.outer(lengths, lengths))[np.triu_indices(len(others), 1)]
    return float(cosines.mean()) if len(cosines) else 0.0


def contains(survey: Survey, whole: int, part: int) -> bool:
    """Whether the delta of one expert is that of the other plus something independent.

    Two roundings of one expert contain each other, which is a redundant pair and nothing more.
    """
    return _is_part(survey, whole, part) and not _is_part(survey, part, whole)


def _is_part(survey: Survey, whole: int, part: int) -> bool:
    common = survey.common(whole, part)
    if len(common) < FEW or survey.cosines[whole, part] > DOUBLE:
        return False
    shares = [tensor.gram[whole + 1, part + 1] / tensor.gram[part + 1, part + 1] for tensor in common]
    low, high = np.quantile(shares, [0.25, 0.75])
    return bool(CONTAINED[0] < low and high < CONTAINED[1])
