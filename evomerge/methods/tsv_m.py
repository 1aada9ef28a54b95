"""TSV-Merge: each task's largest singular vectors, made orthogonal to the others' (Gargiulo et al., arXiv 2412.00081).

Whitening by all experts at once depends on none of their scales, so a merge is linear in them: an expert of scale 0
still pushes the others' vectors aside. `outer: linear` averages the matrices outside the layers, such as embeddings,
which the authors' code treats like any other.
"""

from collections.abc import Mapping

import numpy as np
import torch

from evomerge.kernels import LinComb, LowRank
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _spectral

GENES = (Gene("alpha", 0.0, 2.0, 1.0, base=0.0),)
SHARED: Mapping[str, float | bool | None] = {}
PER_EXPERT: Mapping[str, float | None] = {"alpha": None}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
BANKS_OF_ALL = True
OPTIONS: Mapping[str, tuple[str, ...]] = _spectral.OUTER


@_spectral.one_thread()
def prepare(setup: Setup) -> State:
    """`bank.direction.i`: U⊥ᵢ·diag(σᵢ)·V⊥ᵢ; of adapters U⊥ and V⊥ (`bank.up`, `bank.down`), `values` σ and `owners`.

    U⊥ and V⊥ are the polar factors of all experts' top k = ⌊min(rows, columns)/N⌋ singular vectors side by side; more
    experts than rows or columns leave k = 0 and the base as it is. Null singular values are no part of k.
    """
    sources, count = setup.sources, len(setup.sources)
    if _spectral.averaged(setup):
        return {}
    parts = [_spectral.of_expert(sources, i, min(sources.shape) // count) for i in range(count)]
    sizes = [len(part.values) for part in parts]
    up = _spectral.isometry(torch.cat([part.left for part in parts], dim=1))
    down = _spectral.isometry(torch.cat([part.right for part in parts]))
    values, dtype = torch.cat([part.values for part in parts]), sources.base.dtype
    if sources.factors() is not None:
        owners = torch.repeat_interleave(torch.arange(count), torch.tensor(sizes))
        return {"bank.up": up.to(dtype), "bank.down": down.to(dtype), "values": values.cpu(), "owners": owners}
    own = zip(up.split(sizes, dim=1), values.split(sizes), down.split(sizes), strict=True)
    return {f"bank.direction.{i}": (u * s @ v).to(dtype) for i, (u, s, v) in enumerate(own)}


def coefficients(setup: Setup, genes: Genes) -> LinComb | LowRank:
    """θ₀ + Σ αᵢDᵢ, with Dᵢ = δᵢ/N for tensors that are no matrices."""
    alphas = [float(values["alpha"]) for values in genes.experts]
    if not setup.state:
        return _spectral.mean(alphas)
    if "values" in setup.state and any(alphas):
        return LowRank(np.diag(np.array(alphas)[setup.state["owners"].numpy()] * setup.state["values"].numpy()))
    return LinComb(1.0, (0.0,) * len(alphas), tuple(alphas))
