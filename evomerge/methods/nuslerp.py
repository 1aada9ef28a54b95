"""Spherical interpolation between two task vectors, or between two models where no base is named (as in mergekit).

The angle is that of the whole tensors, of each row (`nuslerp_flatten: false`), or of each column (and
`nuslerp_row_wise: true`, which is mergekit's name for it). Only the ratio of the two weights counts.
"""

from collections.abc import Mapping

import numpy as np

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram, _lines
from evomerge.methods._gram import Matrix

GENES = (Gene("weight", 0.0, 1.0, 1.0),)
SHARED: Mapping[str, float | bool | None] = {"nuslerp_flatten": True, "nuslerp_row_wise": False}
PER_EXPERT: Mapping[str, float | None] = {"weight": None}
BASE = ("weight",)  # only where the first model stands as base; a base that is named takes no part
BASE_MODEL: BaseModel = "optional"
EXPERTS = (2, 2)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

TINY = 1e-7  # a shorter vector does not count as a direction (mergekit's guard)
STRAIGHT = 2.0**-24  # below this sin²Θ fp32 cannot tell the cosine from ±1, and the arc is a line


def prepare(setup: Setup) -> State:
    """The inner products of the two whole tensors; those of lines are found by the first candidate that asks."""
    return _gram.of_members(setup)


def coefficients(setup: Setup, genes: Genes) -> LinComb | Consensus:
    """[sin((1−t)Θ)·v₀ + sin(tΘ)·v₁] / sinΘ with t = w₁/(w₀+w₁), added to the base where v is a task vector."""
    t = ratio(setup, genes)
    if genes.shared["nuslerp_flatten"]:
        return _gram.combination(setup, shares(_gram.gram(setup)[None], t)[0])
    along: _lines.Along = "first" if genes.shared["nuslerp_row_wise"] else "last"
    table = shares(_lines.remembered(setup, lambda: _gram.members(setup), along), t)
    if setup.based:
        return _lines.combine(setup.sources, along, 1.0 - table.sum(axis=1), [table[:, 0], table[:, 1]])
    return _lines.combine(setup.sources, along, table[:, 0], [table[:, 1]])


def ratio(setup: Setup, genes: Genes) -> float:
    """t: not clamped, and one half where the weights cancel."""
    own = [float(values["weight"]) for values in genes.experts]
    first, second = own if setup.based else (float(genes.base["weight"]), *own)
    total = first + second
    return 0.5 if abs(total) < 1e-6 else second / total


def shares(gram: Matrix, t: float) -> Matrix:
    """Coefficients [lines, 2] of v₀ and v₁ for Gram matrices [lines, 2, 2]; nothing of two zero vectors."""
    lengths = _gram.norms(gram)
    bounded = np.maximum(lengths, TINY)
    with np.errstate(invalid="ignore"):  # ∞/∞ is NaN, which must come out
        cosine = np.clip(gram[:, 0, 1] / (bounded[:, 0] * bounded[:, 1]), -1.0, 1.0)
    line = (1.0 - cosine**2 <= STRAIGHT) | (t in (0.0, 1.0))
    angle = np.arccos(np.where(line, 0.0, cosine))
    first = np.where(line, 1.0 - t, np.sin((1.0 - t) * angle) / np.sin(angle))
    second = np.where(line, t, np.sin(t * angle) / np.sin(angle))
    found = np.stack([first, second], axis=1)
    found[np.isnan(cosine)] = np.nan  # also at t = 0 and 1: a broken model must show
    found[(lengths == 0.0).all(axis=1)] = 0.0
    return found
