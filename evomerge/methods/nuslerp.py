"""Spherical interpolation between two task vectors, or between two models if the recipe names no base (as in mergekit).

The angle is that of the whole tensors; with `nuslerp_flatten: false` that of each row; with `nuslerp_row_wise: true`, a
name that comes from mergekit, that of each column. Only the ratio of the two weights counts.
"""

from collections.abc import Mapping

import numpy as np

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram, _lines
from evomerge.methods._contract import FloatArray

GENES = (Gene("weight", 0.0, 1.0, 1.0),)
SHARED: Mapping[str, float | bool | None] = {"nuslerp_flatten": True, "nuslerp_row_wise": False}
PER_EXPERT: Mapping[str, float | None] = {"weight": None}
BASE = ("weight",)  # only read if the recipe names no base; a named base has no weight
BASE_MODEL: BaseModel = "optional"
EXPERTS = (2, 2)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

TINY = 1e-7  # shorter vectors have no direction (as in mergekit)
STRAIGHT = 2.0**-24  # sin²Θ below which the cosine is ±1 in fp32 and the interpolation is linear


def prepare(setup: Setup) -> State:
    """The inner products of the two whole tensors; those of lines are computed when a candidate needs them."""
    return _gram.of_vectors(setup)


def coefficients(setup: Setup, genes: Genes) -> LinComb | Consensus:
    """[sin((1−t)Θ)·v₀ + sin(tΘ)·v₁] / sinΘ with t = w₁/(w₀+w₁), added to the base where v is a task vector."""
    t = ratio(setup, genes)
    if genes.shared["nuslerp_flatten"]:
        return _gram.combination(setup, shares(_gram.gram(setup)[None], t)[0])
    along: _lines.Along = "first" if genes.shared["nuslerp_row_wise"] else "last"
    table = shares(_lines.cached_products(setup, lambda: _gram.vectors(setup), along), t)
    if setup.has_base:
        return _lines.combine(setup.sources, along, 1.0 - table.sum(axis=1), [table[:, 0], table[:, 1]])
    return _lines.combine(setup.sources, along, table[:, 0], [table[:, 1]])


def ratio(setup: Setup, genes: Genes) -> float:
    """t, which is not clamped; one half if the weights sum to zero."""
    weights = [float(values["weight"]) for values in genes.experts]
    first, second = weights if setup.has_base else (float(genes.base["weight"]), *weights)
    total = first + second
    return 0.5 if abs(total) < 1e-6 else second / total


def shares(gram: FloatArray, t: float) -> FloatArray:
    """Coefficients [lines, 2] of v₀ and v₁ for Gram matrices [lines, 2, 2]; 0 if both vectors are zero."""
    lengths = _gram.norms(gram)
    bounded = np.maximum(lengths, TINY)
    with np.errstate(invalid="ignore"):  # ∞/∞ is NaN, which is the intended result
        cosine = np.clip(gram[:, 0, 1] / (bounded[:, 0] * bounded[:, 1]), -1.0, 1.0)
    line = (1.0 - cosine**2 <= STRAIGHT) | (t in (0.0, 1.0))
    angle = np.arccos(np.where(line, 0.0, cosine))
    first = np.where(line, 1.0 - t, np.sin((1.0 - t) * angle) / np.sin(angle))
    second = np.where(line, t, np.sin(t * angle) / np.sin(angle))
    coefficients = np.stack([first, second], axis=1)
    coefficients[np.isnan(cosine)] = np.nan  # also at t = 0 and 1, so that NaN in a model stays visible
    coefficients[(lengths == 0.0).all(axis=1)] = 0.0
    return coefficients
