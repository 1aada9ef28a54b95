"""Karcher mean: the mean of the models' directions on the sphere, at their mean length (Wang et al., arXiv 2603.04972).

The iteration is mergekit's, applied to coefficients instead of weights. mergekit gives every model the same weight,
also a base model. `weight` and `base_model_weight` set other weights; mergekit does not have them. A search starts with
a weight of 0 for the base.
"""

from collections.abc import Mapping

import numpy as np

from evomerge.errors import CandidateError
from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram
from evomerge.methods._contract import FloatArray

GENES = (
    Gene("weight", 0.0, 1.0, 1.0, base=0.0),
    Gene("base_model_weight", 0.0, 1.0, 0.0, per="group", base=1.0),
)
SHARED: Mapping[str, float | bool | None] = {"max_iter": 10, "tol": 1e-5, "base_model_weight": 1.0}
PER_EXPERT: Mapping[str, float | None] = {"weight": 1.0}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "optional"
EXPERTS = (1, 1000)
EXTENSIONS = ("base_model_weight", "weight")
EXACTNESS: Exactness = "frozen-linear"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

OPPOSITE = 1e-7  # sin Θ below which float64 gives no direction between two points of the sphere


def prepare(setup: Setup) -> State:
    """The inner products of all models' weights, including the base's."""
    return _gram.of_weights(setup.sources)


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """(Σ wᵢ‖θᵢ‖) · m, where m is the Karcher mean of the directions; a single model is returned exactly."""
    weights = _weights(setup, genes)
    used = np.flatnonzero(weights)
    if setup.has_base:  # mergekit's order, in which an unlisted base comes last
        used = np.array(sorted(used, key=lambda place: place == 0), dtype=int)
    gram = _gram.gram(setup)[np.ix_(used, used)]
    if not np.isfinite(gram).all():
        return _gram.nan_combination(len(setup.sources))
    coefficients = np.zeros_like(weights)
    normalised = weights[used] / weights[used].sum()
    coefficients[used] = 1.0 if len(used) == 1 else mean(gram, normalised, _steps(genes), float(genes.shared["tol"]))
    return LinComb(float(coefficients[0]), tuple(coefficients[1:].tolist()))


def mean(gram: FloatArray, weights: FloatArray, steps: int, tol: float) -> FloatArray:
    """The mean's coefficients for vectors with this Gram matrix; vectors up to length `tol` only shorten the mean."""
    lengths = _gram.norms(gram)
    valid = np.flatnonzero(lengths > tol)
    coefficients = np.zeros_like(weights)
    if len(valid):
        cosines = _gram.cosines(gram, tol)[np.ix_(valid, valid)]
        direction = on_sphere(cosines, weights[valid] / weights[valid].sum(), steps, tol)
        coefficients[valid] = float(weights @ lengths) * direction / lengths[valid]
    return coefficients


def on_sphere(cosines: FloatArray, weights: FloatArray, steps: int, tol: float) -> FloatArray:
    """c for which Σ cᵢuᵢ is the Karcher mean of unit vectors uᵢ; at most `steps` times m ← exp_m(Σ wᵢ·log_m uᵢ)."""
    length = _gram.length(cosines, weights)
    # If the weighted mean vanishes, the iteration starts at the first vector, as in mergekit.
    current = np.eye(len(weights))[0] if length < max(tol, 1e-12) else weights / length
    for _ in range(steps):
        cosine = np.clip(cosines @ current, -1.0, 1.0)
        angle, sine = np.arccos(cosine), np.sqrt(1.0 - cosine**2)
        has_direction = (angle >= tol) & (sine > OPPOSITE)  # neither the point itself nor its antipode has one
        pull = np.where(has_direction, weights * angle / np.where(has_direction, sine, 1.0), 0.0)
        tangent = pull - float(pull @ cosine) * current
        distance = _gram.length(cosines, tangent)
        if distance < tol or distance == 0.0:
            break
        current = np.cos(distance) * current + np.sin(distance) * tangent / distance
        current = current / max(_gram.length(cosines, current), 1e-12)
    return np.asarray(current)


def _weights(setup: Setup, genes: Genes) -> FloatArray:
    """The weights of the base and of the experts."""
    experts = [float(values["weight"]) for values in genes.experts]
    base = float(genes.shared["base_model_weight"])
    if min([base, *experts]) < 0:
        raise CandidateError(
            "karcher: a weight is negative, which has no meaning on a sphere; give weights of 0 or more"
        )
    if not setup.has_base and any(weight != base for weight in experts):
        raise CandidateError(
            "karcher: weights need a base_model; without one all models have the same weight, as in mergekit"
        )
    # If all weights are 0, the result is the base.
    return np.array([base, *experts]) if base or any(experts) else np.array([1.0, *experts])


def _steps(genes: Genes) -> int:
    value = float(genes.shared["max_iter"])
    if not value.is_integer():
        raise CandidateError(f"karcher: max_iter {value} is not a whole number; give one")
    return int(value)
