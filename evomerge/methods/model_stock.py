"""Model Stock: interpolate between the base and the experts' mean by the angle between the task vectors.

Jang et al., arXiv 2403.19522, eq. 6. The cosine is the mean over all pairs of experts, as in mergekit. `lambda` scales
the interpolation, and 1 is Model Stock; mergekit does not have it. With `filter_wise` each row has its own cosine.
"""

from collections.abc import Mapping

import numpy as np

from evomerge.errors import CandidateError
from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram, _lines
from evomerge.methods._contract import FloatArray

GENES = (Gene("lambda", 0.0, 2.0, 1.0, per="group", base=0.0),)
SHARED: Mapping[str, float | bool | None] = {"filter_wise": False, "lambda": 1.0}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (2, 1000)
EXTENSIONS = ("lambda",)
EXACTNESS: Exactness = "frozen-linear"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

TINY = 1e-6  # lower bound of the product of two norms (as in mergekit): it reduces the cosine of shorter task vectors
POLE = 1e-6  # |divisor| below which the result is the base (as in mergekit)
NEAR = 1e-3  # |divisor| below which t would extrapolate far beyond the experts


def prepare(setup: Setup) -> State:
    """The inner products of the whole task vectors; those of rows are computed when a candidate needs them."""
    return _gram.of_deltas(setup.sources)


def coefficients(setup: Setup, genes: Genes) -> LinComb | Consensus:
    """θ₀ + λt·(mean of θᵢ − θ₀), t = Nc / (1 + (N−1)c) with c the mean cosine."""
    count, lam = len(setup.sources), float(genes.shared["lambda"])
    if lam == 0.0:
        return LinComb(1.0, (0.0,) * count)
    if not genes.shared["filter_wise"]:
        t = lam * ratio(setup.sources.name, _gram.gram(setup)[None])
        return _gram.combination(setup, np.repeat(t / count, count))
    rows = _lines.cached_products(setup, lambda: _gram.deltas(setup.sources), "last")
    t = lam * ratio(setup.sources.name, rows)
    return _lines.combine(setup.sources, "last", 1.0 - t, [t / count] * count)


def ratio(name: str, gram: FloatArray) -> FloatArray:
    """t for each Gram matrix of [lines, experts, experts]; CandidateError if experts point in opposite directions."""
    count, lengths = gram.shape[-1], _gram.norms(gram)
    with np.errstate(invalid="ignore"):  # ∞/∞ is NaN, which is the intended result
        floor = np.maximum(lengths[:, :, None] * lengths[:, None, :], TINY)
        cosines = np.clip(gram / floor, -1.0, 1.0)
    first, second = np.triu_indices(count, 1)
    cosine = cosines[:, first, second].mean(axis=1)
    divisor = 1.0 + (count - 1) * cosine
    pole = np.abs(divisor) < POLE
    if (~pole & (np.abs(divisor) < NEAR)).any():
        raise CandidateError(f"model_stock: {name}: the experts are opposed to one another; leave one of them out")
    return np.asarray(np.where(pole, 0.0, count * cosine / np.where(pole, 1.0, divisor)))
