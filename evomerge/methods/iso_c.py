"""Iso-C: the sum of the task vectors with one singular value in all directions (Marczak et al., arXiv 2502.04959).

β interpolates between the spectrum of the sum (0) and the flat spectrum (1, the paper). The option `mean` sets the
divisor of the mean singular value: all min(rows, columns) values, as in the authors' code, or only the non-zero ones,
as Core Space does for adapters (arXiv 2509.17786), whose low ranks need the larger scale. `outer: linear` averages the
matrices outside the layers.
"""

from collections.abc import Mapping

import numpy as np
import torch

from evomerge.kernels import Factors, LinComb, LowRank, Sources, concatenate_factors
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _spectral

GENES = (
    Gene("alpha", 0.0, 3.0, 1.0, per="group", base=0.0),
    Gene("beta", 0.0, 1.0, 1.0, per="group"),
)
SHARED: Mapping[str, float | bool | None] = {"alpha": None, "beta": 1.0}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
BANKS_DEPEND_ON_EXPERTS = True
OPTIONS: Mapping[str, tuple[str, ...]] = {"mean": ("all", "rank"), **_spectral.OUTER}


@_spectral.one_thread()
def prepare(setup: Setup) -> State:
    """`bank.direction.0`: σ̄·UVᵀ for Σ δᵢ = U·diag(σ)·Vᵀ without null directions. For adapters: `bank.up` U,
    `bank.down` Vᵀ, `values` σ and `level` σ̄."""
    sources = setup.sources
    if _spectral.is_averaged(setup):
        return {}
    left, values, right = _sum(sources)
    level = values.sum() / (max(1, len(values)) if setup.options["mean"] == "rank" else min(sources.shape))
    dtype = sources.base.dtype
    if sources.factors() is not None:
        tables = {"values": values.cpu(), "level": level.reshape(1).cpu()}
        return {"bank.up": left.to(dtype), "bank.down": right.to(dtype), **tables}
    return {"bank.direction.0": (level * (left @ right)).to(dtype)}


def coefficients(setup: Setup, genes: Genes) -> LinComb | LowRank:
    """θ₀ + α·((1−β) Σ δᵢ + β·σ̄UVᵀ); θ₀ + α Σ δᵢ / N for tensors that are not matrices."""
    alpha, beta, count = float(genes.shared["alpha"]), float(genes.shared["beta"]), len(genes.experts)
    if not setup.state:
        return _spectral.mean([alpha] * count)
    if "values" in setup.state and alpha:
        values, level = setup.state["values"].numpy(), float(setup.state["level"])
        return LowRank(np.diag(alpha * ((1.0 - beta) * values + beta * level)))
    weight = alpha * (1.0 - beta)
    return LinComb(1.0 - count * weight, (weight,) * count, (alpha * beta,))


def _sum(sources: Sources) -> _spectral.Triplets:
    limit, factors = min(sources.shape), sources.factors()
    if factors is not None:
        up, down = concatenate_factors([(1.0, update) for update in factors])
        return _spectral.of_factors(Factors(up, down, 1.0), limit)
    total = torch.zeros(sources.shape, dtype=torch.float64, device=sources.device)
    for i in range(len(sources)):
        total += sources.delta(i)
    return _spectral.triplets(total, limit)
