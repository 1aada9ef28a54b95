"""Multi-SLERP: the weighted mean direction of task vectors, or of models, at their weighted mean length.

As in mergekit, whose projection to the tangent space at the vectors' mean always sums to zero and is left out here.
"""

import math
from collections.abc import Mapping

import numpy as np

from evomerge.errors import CandidateError
from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram
from evomerge.methods._contract import FloatArray

GENES = (Gene("weight", 0.0, 1.0, 1.0),)
SHARED: Mapping[str, float | bool | None] = {"normalize_weights": True, "eps": 1e-8}
PER_EXPERT: Mapping[str, float | None] = {"weight": None}
BASE = ("weight",)  # only read if the recipe names no base; a named base has no weight
BASE_MODEL: BaseModel = "optional"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """The inner products of the whole tensors."""
    return _gram.of_vectors(setup)


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """S/‖S‖ · Σ wᵢ‖vᵢ‖ · cos ε with S = Σ wᵢ·vᵢ/(‖vᵢ‖+ε), added to the base where v is a task vector.

    If S vanishes, the result for two vectors is Σ wᵢvᵢ, and for more vectors it raises a CandidateError. If all task
    vectors are zero the result is the base, while mergekit raises an error for three or more.
    """
    experts = [float(values["weight"]) for values in genes.experts]
    weights = _normalised(np.array(experts if setup.has_base else [float(genes.base["weight"]), *experts]), genes)
    if len(weights) == 1:
        return _gram.combination(setup, np.ones(1))
    gram, used = _gram.gram(setup), np.flatnonzero(weights)  # NaN of a model with weight 0 has no effect
    shares, products = weights[used], gram[np.ix_(used, used)]
    lengths, eps = _gram.norms(products), float(genes.shared["eps"])
    if not np.isfinite(products).all():
        return _gram.nan_combination(len(setup.sources))
    result = np.zeros_like(weights)
    if not lengths.any():
        return _gram.combination(setup, result)
    mean = np.divide(shares, lengths + eps, out=np.zeros_like(shares), where=lengths > 0)
    length = _gram.length(products, mean)
    if length >= eps and length > 0:
        result[used] = mean / length * float(shares @ lengths) * math.cos(eps)
    elif len(weights) == 2:
        result = weights
    else:
        raise CandidateError(f"multislerp: {setup.sources.name}: the weighted directions cancel; change the weights")
    return _gram.combination(setup, result)


def _normalised(weights: FloatArray, genes: Genes) -> FloatArray:
    if not genes.shared["normalize_weights"] or len(weights) == 1:
        return weights
    total = float(weights.sum())
    if abs(total) < 1e-8:
        raise CandidateError("multislerp: the weights sum to 0 and normalize_weights is on; make one of them positive")
    return np.asarray(weights / total)
