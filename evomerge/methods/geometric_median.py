"""Geometric median of the task vectors, tensor by tensor: the point whose weighted distance to them all is least.

Gupta and Gupta used it in the LLM Merging competition of NeurIPS 2024; the iteration is Weiszfeld's (1937) with the
steps of Vardi and Zhang (PNAS 97:1423, 2000) at an expert. A weight is a prior: its common scale means nothing, and an
expert with half of all the weight is the median, whatever the others are, so between two experts there is no middle.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import CandidateError
from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram
from evomerge.methods._gram import Matrix

GENES = (
    Gene("weight", 0.0, 1.0, 1.0, base=0.0),
    Gene("lambda", 0.0, 2.0, 1.0, per="group", base=0.0),
)
SHARED: Mapping[str, float | bool | None] = {"lambda": 1.0}
PER_EXPERT: Mapping[str, float | None] = {"weight": 1.0}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "frozen-linear"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

STEPS = 1000
SETTLED = 1e-11  # change of a coefficient at which the iteration ends
SAME = 1e-7  # distance, relative to the longest task vector, that float64 inner products cannot tell from 0


def prepare(setup: Setup) -> State:
    """The inner products of the whole task vectors."""
    return _gram.of_deltas(setup.sources)


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """θ₀ + λ·argmin_y Σ wᵢ‖δᵢ − y‖."""
    weights = np.array([float(values["weight"]) for values in genes.experts])
    if (weights < 0).any():
        raise CandidateError(
            "geometric_median: a weight is negative, so no point is nearest; give weights of 0 and more"
        )
    used = np.flatnonzero(weights)
    found = np.zeros_like(weights)
    if len(used):
        gram = _gram.gram(setup)[np.ix_(used, used)]
        if not np.isfinite(gram).all():
            return _gram.not_finite(len(weights))
        found[used] = float(genes.shared["lambda"]) * median(gram, weights[used] / weights[used].sum())
    return _gram.combination(setup, found)


def median(gram: Matrix, priors: Matrix) -> Matrix:
    """c ≥ 0, Σ c = 1, with Σ cᵢδᵢ the median of vectors with this Gram matrix; nothing of vectors that are all zero."""
    scale = float(_gram.norms(gram).max())
    if scale == 0.0:
        return np.zeros_like(priors)
    anchors = np.eye(len(priors))
    for anchor in anchors:
        away, pull = _pull(gram, priors, anchor, scale)
        # The optimality condition at an expert; those that coincide with it count for it.
        if _size(gram, pull) <= priors[~away].sum():
            return np.asarray(anchor)
    current = priors
    for _ in range(STEPS):
        last, current = current, _step(gram, priors, current, scale)
        if np.abs(current - last).max() <= SETTLED:
            break
    return np.asarray(current)


def _step(gram: Matrix, priors: Matrix, current: Matrix, scale: float) -> Matrix:
    """Weiszfeld's mean with weights wᵢ/distanceᵢ, held back by the experts that the point lies on."""
    away, pull = _pull(gram, priors, current, scale)
    distances = _distances(gram, current)
    total = float((priors[away] / distances[away]).sum())
    here, size = float(priors[~away].sum()), _size(gram, pull)
    if total == 0.0 or size == 0.0:
        return current
    return np.asarray(current + (1.0 - min(1.0, here / size)) * pull / total)


def _pull(gram: Matrix, priors: Matrix, point: Matrix, scale: float) -> tuple[NDArray[np.bool_], Matrix]:
    """Which experts the point does not lie on, and Σ wᵢ·(δᵢ − y)/‖δᵢ − y‖ over those, in coefficients."""
    distances = _distances(gram, point)
    away = distances > SAME * scale
    ways = np.where(away, priors / np.where(away, distances, 1.0), 0.0)
    return away, np.asarray(ways - ways.sum() * point)


def _distances(gram: Matrix, point: Matrix) -> Matrix:
    """‖δᵢ − y‖ with y = Σ cᵢδᵢ."""
    square = np.diagonal(gram) - 2.0 * gram @ point + float(point @ gram @ point)
    return np.asarray(np.sqrt(np.clip(square, 0.0, None)))


def _size(gram: Matrix, vector: Matrix) -> float:
    return float(np.sqrt(max(float(vector @ gram @ vector), 0.0)))
