"""Spherical interpolation between two models, tensor by tensor (Shoemake 1985; for weights as in mergekit)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.kernels import LinComb, Sources
from evomerge.methods import Exactness, Gene, Genes

GENES = (Gene("t", 0.0, 1.0, 0.5, per="group", base=0.0),)
SHARED: Mapping[str, float | bool | None] = {"t": None}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
EXPERTS = (1, 1)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

PARALLEL = 0.9995  # beyond this |cosine| the arc is a line to fp32


def prepare(sources: Sources, options: Mapping[str, str], seed: int) -> float:
    """The cosine of the angle between the two whole tensors; a zero tensor has cosine 0."""
    first, second = sources.base.float().flatten(), sources.expert(0).flatten()
    return max(-1.0, min(1.0, _dot(_unit(first), _unit(second))))


def coefficients(state: float, genes: Genes) -> LinComb:
    """sin((1−t)Θ)/sinΘ · θ₀ + sin(tΘ)/sinΘ · θ₁; t = 0 is the base."""
    t = float(genes.shared["t"])
    if abs(state) > PARALLEL:
        return LinComb(1.0 - t, (t,))
    angle = math.acos(state)
    if t in (
        0.0,
        1.0,
    ):  # exact end points: sin(Θ)/sin(Θ) is 1, but sin(0·Θ) at t = 1 leaves no crumb only this way
        return LinComb(1.0 - t, (t,))
    return LinComb(math.sin((1 - t) * angle) / math.sin(angle), (math.sin(t * angle) / math.sin(angle),))


def _unit(vector: Tensor) -> Tensor:
    norm = float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    return vector / norm if norm > 1e-8 else vector


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first.double() * second.double()).sum())
