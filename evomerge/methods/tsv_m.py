"""TSV-Merge: each task's largest singular vectors, orthogonalised between tasks (Gargiulo et al., arXiv 2412.00081).

The orthogonalisation uses all experts and does not depend on their scales, so the merge is linear in the scales, and an
expert of scale 0 still affects the singular vectors of the others. `outer: linear` averages the matrices outside the
layers, such as embeddings; the authors' code treats them like other matrices.
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
BANKS_DEPEND_ON_EXPERTS = True
OPTIONS: Mapping[str, tuple[str, ...]] = _spectral.OUTER


@_spectral.one_thread()
def prepare(setup: Setup) -> State:
    """`bank.direction.i`: U⊥ᵢ·diag(σᵢ)·V⊥ᵢ. For adapters: `bank.up` U⊥, `bank.down` V⊥, `values` σ and their `owners`.

    U⊥ and V⊥ are the polar factors of the concatenated top k = ⌊min(rows, columns)/N⌋ singular vectors of all experts.
    Null singular values are dropped. With more experts than rows or columns, k is 0 and the merge is the base.
    """
    sources, count = setup.sources, len(setup.sources)
    if _spectral.is_averaged(setup):
        return {}
    parts = [_spectral.of_expert(sources, i, min(sources.shape) // count) for i in range(count)]
    sizes = [len(part.values) for part in parts]
    up = _spectral.isometry(torch.cat([part.left for part in parts], dim=1))
    down = _spectral.isometry(torch.cat([part.right for part in parts]))
    values, dtype = torch.cat([part.values for part in parts]), sources.base.dtype
    if sources.factors() is not None:
        owners = torch.repeat_interleave(torch.arange(count), torch.tensor(sizes))
        return {"bank.up": up.to(dtype), "bank.down": down.to(dtype), "values": values.cpu(), "owners": owners}
    triplets = zip(up.split(sizes, dim=1), values.split(sizes), down.split(sizes), strict=True)
    return {f"bank.direction.{i}": (u * s @ v).to(dtype) for i, (u, s, v) in enumerate(triplets)}


def coefficients(setup: Setup, genes: Genes) -> LinComb | LowRank:
    """θ₀ + Σ αᵢDᵢ, where Dᵢ = δᵢ/N for tensors that are not matrices."""
    alphas = [float(values["alpha"]) for values in genes.experts]
    if not setup.state:
        return _spectral.mean(alphas)
    if "values" in setup.state and any(alphas):
        return LowRank(np.diag(np.array(alphas)[setup.state["owners"].numpy()] * setup.state["values"].numpy()))
    return LinComb(1.0, (0.0,) * len(alphas), tuple(alphas))
