"""Findings about the base that an expert's own files name: an adapter's configuration, or a model card."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from evomerge.audit.finding import Finding
from evomerge.audit.survey import Survey
from evomerge.models import AdapterExpert, Expert, Family, is_same_model
from evomerge.recipes import ModelRef

_CARD_BASE = re.compile(r"^base_model:\s*(?:-\s*)?['\"]?([^\s'\"\[\]]+)", re.MULTILINE)


def named_bases(survey: Survey) -> Iterator[Finding]:
    """One finding for each other base that is named, with all experts that name it."""
    for name, labels in other_bases(survey.family, dict(zip(survey.labels, survey.refs, strict=True))).items():
        evidence = f"trained on {name} by its own files; the base is {survey.family.ref}"
        yield Finding(
            "wrong base", tuple(labels), "warning", evidence, f"give {name} as the base, if it is another model"
        )


def other_bases(family: Family, experts: Mapping[str, ModelRef]) -> dict[str, list[str]]:
    """Name of another base → the labels of the experts whose own files name it; no weight is read."""
    parameters = sum(math.prod(shape) for shape in family.base.skeleton.parameters.values())
    named: dict[str, list[str]] = {}
    for label, ref in experts.items():
        if name := _named(family.experts[ref]) if ref in family.experts else None:
            named.setdefault(name, []).append(label)
    others = {name for name in named if not is_same_model(name, family.ref.path, parameters)}
    # A folder called `base` can be any of the models that are named, but not two different ones.
    first = max((name for name in named if name not in others), key=lambda name: len(named[name]), default="")
    others |= {name for name in named if not is_same_model(name, first or name, parameters)}
    return {name: labels for name, labels in named.items() if name in others}


def folder_of(expert: Expert) -> Path:
    """The folder of an expert's own files."""
    return expert.adapter.folder if isinstance(expert, AdapterExpert) else expert.checkpoint.folder


def _named(expert: Expert) -> str | None:
    if isinstance(expert, AdapterExpert):
        return expert.adapter.base_model if expert.origin is None else None
    card = expert.checkpoint.folder / "README.md"
    if not card.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    named = _CARD_BASE.search(head[1]) if head else None
    return named[1] if named else None
