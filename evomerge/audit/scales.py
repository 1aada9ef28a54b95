"""Findings about the scale of experts: norms against one another, and the fields of an adapter that set its scale."""

import math
import re
from collections.abc import Iterator
from itertools import combinations
from statistics import median

from evomerge.audit.finding import Finding, some
from evomerge.audit.no_delta import NEAR_ZERO
from evomerge.audit.survey import Survey
from evomerge.models import AdapterExpert

# Of two experts. Real families of adapters or of full checkpoints stay within 3.2, and a wrong lora_alpha is often ten
# times another. An adapter and a full checkpoint differ more.
IMBALANCE, IMBALANCE_MIXED = 5.0, 12.0
ALONE, CLOSE = 4.0, 3.0  # an expert this far from all others, which are within the second factor of one another
UNUSUAL_SCALE = 8.0  # alpha/r; trainers use 0.5 to 4
UNUSUAL_RSLORA = 16.0  # alpha/√r
OTHER_SCALE = 4.0  # by which scale and norm both differ from the others': the factors do not make up for the scale
SEARCH_REMEDY = "widen the genes' ranges so that both reach the same effect, or choose a method that rescales"

Logs = dict[tuple[int, int], float]  # pair of experts → logarithm of the ratio of their norms


def scales(survey: Survey) -> Iterator[Finding]:
    """The pair of experts with the most different norms, and each adapter with an unusual scale."""
    with_delta = [i for i in range(len(survey.labels)) if survey.relative_norm(i) > NEAR_ZERO]
    pairs = combinations(with_delta, 2)
    yield from _imbalances(survey, {pair: math.log(ratio) for pair in pairs if (ratio := _ratio(survey, *pair))})
    adapters = dict(survey.adapters())
    for number, expert in adapters.items():
        others = {other: adapter for other, adapter in adapters.items() if other != number}
        if evidence := [*_fields(expert), *_against_others(survey, number, expert, others)]:
            remedy = "correct lora_alpha, r or use_rslora in adapter_config.json to the values of the training"
            yield Finding("adapter fields", (survey.labels[number],), "warning", "; ".join(evidence), remedy)


def _imbalances(survey: Survey, logs: Logs) -> Iterator[Finding]:
    """A finding for each expert that is far from all others, or else for the two that are farthest apart."""
    alone = [number for number in range(len(survey.labels)) if _is_alone(number, logs)]
    for number in alone:
        ratio = math.exp(min(_distances(number, logs), key=abs))
        yield _imbalance(
            (survey.labels[number],), f"the norm of its delta is {ratio:.2g} times that of the nearest other"
        )
    left = {pair: log for pair, log in logs.items() if not set(pair) & set(alone) and _is_far(survey, pair, log)}
    if left:
        pair = max(left, key=lambda pair: abs(left[pair]))
        one, other = (survey.labels[i] for i in (pair if left[pair] > 0 else pair[::-1]))
        evidence = f"the norm of {one}'s delta is {math.exp(abs(left[pair])):.2g} times that of {other}'s"
        yield _imbalance((one, other), f"scale imbalance: {evidence}")


def _is_far(survey: Survey, pair: tuple[int, int], log: float) -> bool:
    adapters = {isinstance(survey.experts[number], AdapterExpert) for number in pair}
    return abs(log) > math.log(IMBALANCE if len(adapters) == 1 else IMBALANCE_MIXED)


def _is_alone(number: int, logs: Logs) -> bool:
    """Whether an expert is far from at least two others, which are close to one another."""
    distances = _distances(number, logs)
    others = [abs(log) for pair, log in logs.items() if number not in pair]
    is_far = min(map(abs, distances), default=0.0) > math.log(ALONE)
    return is_far and bool(others) and max(others) < math.log(CLOSE)


def _distances(number: int, logs: Logs) -> list[float]:
    """The logarithms of the ratios of an expert's norm and those of the others."""
    return [log if pair[0] == number else -log for pair, log in logs.items() if number in pair]


def _imbalance(who: tuple[str, ...], evidence: str) -> Finding:
    remedy = f"check lora_alpha, r and learning rate of the training; {SEARCH_REMEDY}"
    return Finding("scale of experts", who, "warning", evidence, remedy)


def _ratio(survey: Survey, one: int, other: int) -> float:
    """The median ratio of the norms of both deltas, over the matrices that both change; 0 if one has no delta.

    Where they change no common matrix, it is the ratio of the norms relative to the base.
    """
    common = survey.common(one, other)
    if common:
        return median(float(tensor.norms[one + 1] / tensor.norms[other + 1]) for tensor in common)
    relative = survey.relative_norm(one), survey.relative_norm(other)
    return relative[0] / relative[1] if all(relative) else 0.0


def _scale(expert: AdapterExpert) -> tuple[float, float, bool]:
    """`r`, `lora_alpha`, and whether the scale is alpha/√r."""
    config = expert.adapter.config
    return float(config.get("r", 8)), float(config.get("lora_alpha", 8)), bool(config.get("use_rslora"))


def _factor(expert: AdapterExpert) -> float:
    rank, alpha, is_rslora = _scale(expert)
    return alpha / (math.sqrt(rank) if is_rslora else rank)


def _fields(expert: AdapterExpert) -> Iterator[str]:
    """What is unusual in one configuration."""
    rank, alpha, is_rslora = _scale(expert)
    factor = _factor(expert)
    if abs(factor) >= (UNUSUAL_RSLORA if is_rslora else UNUSUAL_SCALE):
        yield f"lora_alpha {alpha:g} with r {rank:g}{' and use_rslora' * is_rslora}: a scale of {factor:g}"
    for key in ("rank_pattern", "alpha_pattern"):
        modules = [name.rpartition(".")[0] for name in expert.adapter.names()]
        patterns = expert.adapter.config.get(key) or {}
        unused = [p for p in patterns if not any(re.match(rf"(.*\.)?({p})$", module) for module in modules)]
        if unused:
            yield f"{key}: {some(unused)} matches no module of the file"


def _against_others(
    survey: Survey, number: int, expert: AdapterExpert, others: dict[int, AdapterExpert]
) -> Iterator[str]:
    """A scale that differs from that of the other adapters, together with the norm of the delta."""
    if not others:
        return
    rank, alpha, is_rslora = _scale(expert)
    factors = _factor(expert) / (median(_factor(other) for other in others.values()) or math.inf)
    norms = [ratio for other in others if (ratio := _ratio(survey, number, other))]
    norm = median(norms) if norms else 1.0
    if min(factors, norm) > OTHER_SCALE or 0 < max(factors, norm) < 1 / OTHER_SCALE:
        yield f"lora_alpha {alpha:g} with r {rank:g}: scale and norm are {factors:.2g} and {norm:.2g} times the others'"
    same = [other for other in others.values() if _scale(other)[:2] == (rank, alpha)]
    if same and rank > 1 and all(_scale(other)[2] != is_rslora for other in same) and (len(same) > 1 or is_rslora):
        others_have = f"unlike in the other adapters of r {rank:g} and lora_alpha {alpha:g}"
        yield f"use_rslora is {str(is_rslora).lower()}, {others_have}"
