"""Geometric median of the task vectors, tensor by tensor: the point with the least sum of weighted distances to them.

Gupta and Gupta used it in the LLM Merging competition of NeurIPS 2024. The iteration is Weiszfeld's (1937), with the
step of Vardi and Zhang (PNAS 97:1423, 2000) at a point that coincides with an expert. Only the ratios of the weights
count. An expert with at least half of the total weight is itself the median, so two experts never give a point between.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import CandidateError
from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram
from evomerge.methods._contract import FloatArray

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
TOLERANCE = 1e-11  # change of the coefficients at which the iteration stops
COINCIDENT = 1e-7  # distance relative to the longest task vector below which float64 inner products give no distance


def prepare(setup: Setup) -> State:
    """The inner products of the whole task vectors."""
    return _gram.of_deltas(setup.sources)


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """θ₀ + λ·argmin_y Σ wᵢ‖δᵢ − y‖."""
    weights = np.array([float(values["weight"]) for values in genes.experts])
    if (weights < 0).any():
        raise CandidateError(
            "geometric_median: a weight is negative, so there is no minimum; give weights of 0 or more"
        )
    used = np.flatnonzero(weights)
    coefficients = np.zeros_like(weights)
    if len(used):
        gram = _gram.gram(setup)[np.ix_(used, used)]
        if not np.isfinite(gram).all():
            return _gram.nan_combination(len(weights))
        coefficients[used] = float(genes.shared["lambda"]) * median(gram, weights[used] / weights[used].sum())
    return _gram.combination(setup, coefficients)


def median(gram: FloatArray, priors: FloatArray) -> FloatArray:
    """c ≥ 0 with Σ c = 1, for which Σ cᵢδᵢ is the median of vectors with this Gram matrix; 0 for zero vectors."""
    scale = float(_gram.norms(gram).max())
    if scale == 0.0:
        return np.zeros_like(priors)
    anchors = np.eye(len(priors))
    for anchor in anchors:
        away, pull = _pull(gram, priors, anchor, scale)
        # The optimality condition at an expert; the priors of experts that coincide with it are added.
        if _size(gram, pull) <= priors[~away].sum():
            return np.asarray(anchor)
    current = priors
    for _ in range(STEPS):
        last, current = current, _step(gram, priors, current, scale)
        if np.abs(current - last).max() <= TOLERANCE:
            break
    return np.asarray(current)


def _step(gram: FloatArray, priors: FloatArray, current: FloatArray, scale: float) -> FloatArray:
    """Weiszfeld's mean with weights wᵢ/distanceᵢ; the step is shorter if the point coincides with experts."""
    away, pull = _pull(gram, priors, current, scale)
    distances = _distances(gram, current)
    total = float((priors[away] / distances[away]).sum())
    here, size = float(priors[~away].sum()), _size(gram, pull)
    if total == 0.0 or size == 0.0:
        return current
    return np.asarray(current + (1.0 - min(1.0, here / size)) * pull / total)


def _pull(
    gram: FloatArray, priors: FloatArray, point: FloatArray, scale: float
) -> tuple[NDArray[np.bool_], FloatArray]:
    """The experts that do not coincide with the point y, and the coefficients of Σ wᵢ·(δᵢ − y)/‖δᵢ − y‖ over them."""
    distances = _distances(gram, point)
    away = distances > COINCIDENT * scale
    pulls = np.where(away, priors / np.where(away, distances, 1.0), 0.0)
    return away, np.asarray(pulls - pulls.sum() * point)


def _distances(gram: FloatArray, point: FloatArray) -> FloatArray:
    """‖δᵢ − y‖ with y = Σ cᵢδᵢ."""
    square = np.diagonal(gram) - 2.0 * gram @ point + float(point @ gram @ point)
    return np.asarray(np.sqrt(np.clip(square, 0.0, None)))


def _size(gram: FloatArray, vector: FloatArray) -> float:
    return float(np.sqrt(max(float(vector @ gram @ vector), 0.0)))
