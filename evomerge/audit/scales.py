"""Findings about the scale of experts: norms against one another, and the fields of an adapter that set its scale."""

import math
import re
from collections.abc import Iterator
from itertools import combinations
from statistics import median

from evomerge.audit.finding import Finding, some
from evomerge.audit.survey import Survey
from evomerge.models import AdapterExpert

IMBALANCE = 5.0  # real families stay within 3.2; a factor of ten on an expert that is naturally half as large is found
UNUSUAL_SCALE = 8.0  # alpha/r; trainers use 0.5 to 4
UNUSUAL_RSLORA = 16.0  # alpha/√r
OTHER_SCALE = (
    4.0  # scale and norm both differ from the other adapters by this factor: the factors do not make up for it
)
SEARCH_REMEDY = "widen the genes' ranges so that both reach the same effect, or choose a method that rescales"


def scales(survey: Survey) -> Iterator[Finding]:
    """The pair of experts with the most different norms, and each adapter with an unusual scale."""
    ratios = {pair: _ratio(survey, *pair) for pair in combinations(range(len(survey.labels)), 2)}
    yield from _imbalances(survey, ratios)
    adapters = dict(survey.adapters())
    for number, expert in adapters.items():
        others = {other: adapter for other, adapter in adapters.items() if other != number}
        if evidence := [*_fields(expert), *_against_others(survey, number, expert, others)]:
            remedy = "correct lora_alpha, r or use_rslora in adapter_config.json to the values of the training"
            yield Finding("adapter fields", (survey.labels[number],), "warning", "; ".join(evidence), remedy)


def _imbalances(survey: Survey, ratios: dict[tuple[int, int], float]) -> Iterator[Finding]:
    """A finding for each expert that is far from all others, or else for the two that are farthest apart."""
    far = {pair: ratio for pair, ratio in ratios.items() if ratio and not 1 / IMBALANCE < ratio < IMBALANCE}
    count = len(survey.labels)
    alone = [i for i in range(count) if count > 2 and sum(i in pair for pair in far) == count - 1]
    for number in alone:
        values = [ratio if pair[0] == number else 1 / ratio for pair, ratio in far.items() if number in pair]
        nearest = min(values, key=lambda value: abs(math.log(value)))
        yield _imbalance(
            (survey.labels[number],), f"the norm of its delta is {nearest:.2g} times that of the nearest other expert"
        )
    left = {pair: ratio for pair, ratio in far.items() if not set(pair) & set(alone)}
    if left:
        one, other = max(left, key=lambda pair: abs(math.log(left[pair])))
        one, other, ratio = (
            (one, other, left[one, other]) if left[one, other] > 1 else (other, one, 1 / left[one, other])
        )
        names = survey.labels[one], survey.labels[other]
        yield _imbalance(
            names, f"scale imbalance: the norm of {names[0]}'s delta is {ratio:.2g} times that of {names[1]}'s"
        )


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
