"""Karcher mean: the mean of the models' directions on the sphere, at their mean length (Wang et al., arXiv 2603.04972).

The iteration is mergekit's, on coefficients instead of weights; mergekit counts every model alike, a named base too.
`weight` and `base_model_weight`, which it does not read, weigh them; a search starts without the base.
"""

from collections.abc import Mapping

import numpy as np

from evomerge.errors import CandidateError
from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram
from evomerge.methods._gram import Matrix

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

OPPOSITE = 1e-7  # sin Θ below which float64 knows no way along the sphere


def prepare(setup: Setup) -> State:
    """The inner products of the whole weights, the base among them."""
    return _gram.of_weights(setup.sources)


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """(Σ wᵢ‖θᵢ‖) · m with m the Karcher mean of the directions; one model alone comes back as it is."""
    weights = _weights(setup, genes)
    used = np.flatnonzero(weights)
    if setup.based:  # mergekit's order: a base that is not listed comes last
        used = np.array(sorted(used, key=lambda place: place == 0), dtype=int)
    gram = _gram.gram(setup)[np.ix_(used, used)]
    if not np.isfinite(gram).all():
        return _gram.not_finite(len(setup.sources))
    found = np.zeros_like(weights)
    own = weights[used] / weights[used].sum()
    found[used] = 1.0 if len(used) == 1 else mean(gram, own, _steps(genes), float(genes.shared["tol"]))
    return LinComb(float(found[0]), tuple(found[1:].tolist()))


def mean(gram: Matrix, weights: Matrix, steps: int, tol: float) -> Matrix:
    """Coefficients of the vectors with this Gram matrix; those not longer than `tol` only shorten the result."""
    lengths = _gram.norms(gram)
    valid = np.flatnonzero(lengths > tol)
    found = np.zeros_like(weights)
    if len(valid):
        cosines = _gram.cosines(gram, tol)[np.ix_(valid, valid)]
        direction = on_sphere(cosines, weights[valid] / weights[valid].sum(), steps, tol)
        found[valid] = float(weights @ lengths) * direction / lengths[valid]
    return found


def on_sphere(cosines: Matrix, weights: Matrix, steps: int, tol: float) -> Matrix:
    """c with Σ cᵢuᵢ the Karcher mean of unit vectors uᵢ: m ← exp_m(Σ wᵢ·log_m uᵢ), at most `steps` times."""
    length = _gram.length(cosines, weights)
    # Without a mean direction the first unit is the start, as in mergekit.
    current = np.eye(len(weights))[0] if length < max(tol, 1e-12) else weights / length
    for _ in range(steps):
        cosine = np.clip(cosines @ current, -1.0, 1.0)
        angle, sine = np.arccos(cosine), np.sqrt(1.0 - cosine**2)
        there = (angle >= tol) & (sine > OPPOSITE)  # the opposite pole has no direction either
        pull = np.where(there, weights * angle / np.where(there, sine, 1.0), 0.0)
        tangent = pull - float(pull @ cosine) * current
        way = _gram.length(cosines, tangent)
        if way < tol or way == 0.0:
            break
        current = np.cos(way) * current + np.sin(way) * tangent / way
        current = current / max(_gram.length(cosines, current), 1e-12)
    return np.asarray(current)


def _weights(setup: Setup, genes: Genes) -> Matrix:
    """The base's and the experts' weights."""
    own = [float(values["weight"]) for values in genes.experts]
    base = float(genes.shared["base_model_weight"])
    if min([base, *own]) < 0:
        raise CandidateError(
            "karcher: a weight is negative, which has no meaning on a sphere; give weights of 0 and more"
        )
    if not setup.based and any(weight != base for weight in own):
        raise CandidateError("karcher: weights need a base_model; without one all models count alike, as in mergekit")
    return np.array([base, *own]) if base or any(own) else np.array([1.0, *own])  # nobody leaves the base


def _steps(genes: Genes) -> int:
    value = float(genes.shared["max_iter"])
    if not value.is_integer():
        raise CandidateError(f"karcher: max_iter {value} is not a whole number; give one")
    return int(value)
