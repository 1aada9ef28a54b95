"""Norms and cosines of the task vectors of a family, without the findings of an audit."""

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.audit.measure import Matrix, measure
from evomerge.audit.survey import Survey
from evomerge.models import Family
from evomerge.recipes import ModelRef


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """Labels of experts with the norms of their task vectors [experts] and their cosines [experts, experts].

    `relative` are the norms by that of the base, over the matrices that an expert changes. A zero vector has the cosine
    0 with every other.
    """

    labels: tuple[str, ...]
    norms: Matrix
    relative: tuple[float, ...]
    cosines: Matrix


def measure_task_vectors(family: Family, experts: Mapping[str, ModelRef]) -> TaskVectors:
    """Read all models of a family once; `experts` are label → reference."""
    refs = tuple(experts.values())
    survey = Survey(family, tuple(experts), refs, tuple(measure(family, refs)))
    relative = tuple(survey.relative_norm(number) for number in range(len(refs)))
    return TaskVectors(tuple(experts), survey.norms, relative, survey.cosines)
