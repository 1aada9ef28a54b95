"""Multi-SLERP: the weighted mean direction of task vectors, or of models, at their weighted mean length.

As in mergekit, whose projection to the tangent space at the vectors' own mean always sums to nothing.
"""

import math
from collections.abc import Mapping

import numpy as np

from evomerge.errors import CandidateError
from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram

GENES = (Gene("weight", 0.0, 1.0, 1.0),)
SHARED: Mapping[str, float | bool | None] = {"normalize_weights": True, "eps": 1e-8}
PER_EXPERT: Mapping[str, float | None] = {"weight": None}
BASE = ("weight",)  # only where the first model stands as base; a base that is named takes no part
BASE_MODEL: BaseModel = "optional"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """The inner products of the whole tensors."""
    return _gram.of_members(setup)


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """S/‖S‖ · Σ wᵢ‖vᵢ‖ · cos ε with S = Σ wᵢ·vᵢ/(‖vᵢ‖+ε), added to the base where v is a task vector.

    Where S vanishes, two vectors give Σ wᵢvᵢ and more are a CandidateError. Task vectors that are all zero give the
    base, at which mergekit gives up the merge from three on.
    """
    given = [float(values["weight"]) for values in genes.experts]
    weights = _normalised(np.array(given if setup.based else [float(genes.base["weight"]), *given]), genes)
    if len(weights) == 1:
        return _gram.combination(setup, np.ones(1))
    gram, used = _gram.gram(setup), np.flatnonzero(weights)  # a model without a weight must leave no trace
    own, members = weights[used], gram[np.ix_(used, used)]
    lengths, eps = _gram.norms(members), float(genes.shared["eps"])
    if not np.isfinite(members).all():
        return _gram.not_finite(len(setup.sources))
    found = np.zeros_like(weights)
    if not lengths.any():
        return _gram.combination(setup, found)
    mean = np.divide(own, lengths + eps, out=np.zeros_like(own), where=lengths > 0)
    length = _gram.length(members, mean)
    if length >= eps and length > 0:
        found[used] = mean / length * float(own @ lengths) * math.cos(eps)
    elif len(weights) == 2:
        found = weights
    else:
        raise CandidateError(f"multislerp: {setup.sources.name}: the weighted directions cancel; change the weights")
    return _gram.combination(setup, found)


def _normalised(weights: _gram.Matrix, genes: Genes) -> _gram.Matrix:
    if not genes.shared["normalize_weights"] or len(weights) == 1:
        return weights
    total = float(weights.sum())
    if abs(total) < 1e-8:
        raise CandidateError("multislerp: the weights sum to 0 and normalize_weights is on; make one of them positive")
    return np.asarray(weights / total)
