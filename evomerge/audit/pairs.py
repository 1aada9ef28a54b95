"""Findings about task vectors that are not independent: duplicates, sums, redundant and opposed pairs."""

from collections.abc import Iterator
from itertools import combinations, permutations

import numpy as np

from evomerge.audit.centre import FEW, common_centre, contains
from evomerge.audit.finding import Finding, some
from evomerge.audit.survey import BASE, Survey

DUPLICATE = 0.999  # cosine
EQUAL_NORMS = 0.005
REDUNDANT, OPPOSED = 0.9, -0.5  # real experts of different skills have cosines of at most 0.1
EXPLAINED = 0.95  # share of ‖δ‖² in the span of the other experts
IN_BASE = (0.6, 1.4)  # ⟨W, δ⟩/‖δ‖², which is 0 but for noise if the base does not contain the expert
FEW_EXPERTS = 2  # with two, one that contains the other may be a swapped base or a further training
SURE = 3.0  # standard deviations of that noise


def dependent_pairs(survey: Survey) -> Iterator[Finding]:
    """The findings of all pairs, of each expert against all others, and of each adapter against the base."""
    doubles: set[tuple[int, int]] = set()
    for one, other in combinations(range(len(survey.labels)), 2):
        for finding in _pair(survey, one, other):
            yield finding
            doubles |= {(one, other)} if finding.kind == "duplicate" else set()
    sums = dict(_sums(survey, doubles))
    yield from sums.values()
    centre = common_centre(survey)
    for whole, part in permutations(range(len(survey.labels)), 2):
        is_known = (
            whole in sums
            or (min(whole, part), max(whole, part)) in doubles
            or (part == centre and len(survey.labels) > FEW_EXPERTS)
        )
        if not is_known and contains(survey, whole, part):
            yield _twice(survey, whole, f"its delta is that of {survey.labels[part]} plus another one", (part,))
    yield from _in_base(survey)


def _pair(survey: Survey, one: int, other: int) -> Iterator[Finding]:
    who, cosine = (survey.labels[one], survey.labels[other]), float(survey.cosines[one, other])
    if survey.refs[one] == survey.refs[other]:
        yield Finding("duplicate", who, "warning", "the same path twice", "leave one of them out")
    elif cosine >= DUPLICATE:
        ratio = float(survey.norms[one] / survey.norms[other])
        is_equal = abs(ratio - 1) < EQUAL_NORMS
        evidence = "the same delta" if is_equal else f"the same delta, scaled by {ratio:.3g}"
        yield Finding("duplicate", who, "warning", f"{evidence} (cosine {cosine:.4f})", "leave one of them out")
    elif cosine >= REDUNDANT:
        remedy = "keep the better of the two: the search would spend genes on one direction"
        yield Finding("redundant pair", who, "warning", f"cosine {cosine:.3f}", remedy)
    elif cosine <= OPPOSED:
        remedy = "each undoes the other; check that both were trained from this base, or merge one of them"
        yield Finding("opposed pair", who, "warning", f"cosine {cosine:.3f}", remedy)


def _twice(survey: Survey, whole: int, evidence: str, parts: tuple[int, ...]) -> Finding:
    label, names = survey.labels[whole], tuple(survey.labels[part] for part in parts)
    remedy = f"give {label} as it was before that merge, or leave {some(names)} out: it counts twice"
    return Finding("merged twice", (label, *names), "warning", evidence, remedy)


def _sums(survey: Survey, doubles: set[tuple[int, int]]) -> Iterator[tuple[int, Finding]]:
    """The experts that are weighted sums of at least two others, which are no doubles of them."""
    for whole in range(len(survey.labels)):
        others = [i for i in range(len(survey.labels)) if i != whole and survey.norms[i] > 0]
        others = [i for i in others if (min(i, whole), max(i, whole)) not in doubles]
        if len(others) < 2 or survey.norms[whole] == 0 or survey.cosines[whole, others].max() > REDUNDANT:
            continue
        lengths = survey.norms[others]
        inner = survey.gram[np.ix_(others, others)] / np.outer(lengths, lengths)
        target = survey.gram[others, whole] / lengths / survey.norms[whole]
        weights = np.linalg.lstsq(inner, target, rcond=1e-6)[0]
        weights = weights * survey.norms[whole] / lengths
        parts = [
            (i, float(w))
            for i, w in zip(others, weights, strict=True)
            if abs(w) * survey.norms[i] > 0.1 * survey.norms[whole]
        ]
        explained = float(target @ np.linalg.lstsq(inner, target, rcond=1e-6)[0])
        if explained > EXPLAINED and len(parts) > 1 and all(weight > 0 for _, weight in parts):
            formula = " + ".join(f"{weight:.2g} {survey.labels[i]}" for i, weight in parts)
            yield whole, _twice(survey, whole, f"{explained:.1%} of its delta is {formula}", tuple(i for i, _ in parts))


def _in_base(survey: Survey) -> Iterator[Finding]:
    """The adapters that the base already contains: W = W₀ + δ has ⟨W, δ⟩ = ‖δ‖² and noise of ‖W₀‖‖δ‖/√n."""
    for number, _ in survey.adapters():
        found = [tensor for tensor in survey.matrices(number) if tensor.kinds[number] == "factors"]
        if len(found) < FEW:
            continue
        inner = np.array([tensor.gram[0, number + 1] for tensor in found])
        squares = np.array([tensor.gram[number + 1, number + 1] for tensor in found])
        sizes = np.array([np.prod(tensor.shape) for tensor in found])
        noise = np.sqrt((np.array([tensor.gram[0, 0] for tensor in found]) * squares / sizes).sum()) / squares.sum()
        shares = float(inner.sum() / squares.sum()), float(np.median(inner / squares))
        if min(shares) > max(IN_BASE[0], SURE * noise) and max(shares) < IN_BASE[1]:
            label = survey.labels[number]
            evidence = f"the base already contains the adapter, {shares[0]:.2f} times"
            remedy = f"give the base without {label}, or leave the adapter {label} out"
            yield Finding("merged twice", (label, BASE), "warning", evidence, remedy)
