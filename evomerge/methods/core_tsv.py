"""TSV-Merge in Core Space: singular vectors of the adapters' core matrices (arXiv 2509.17786 and 2412.00081).

The singular vectors are the same in every space, so this is `tsv_m` with another number of them: the mean rank
⌊Σ rᵢ/N⌋ of the adapters that change the tensor. An adapter is truncated only if another adapter has a lower rank.
"""

from collections.abc import Mapping

import numpy as np
import torch

from evomerge.kernels import LinComb, LowRank
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _core, _spectral

GENES = (Gene("alpha", 0.0, 2.0, 1.0, base=0.0),)
SHARED: Mapping[str, float | bool | None] = {}
PER_EXPERT: Mapping[str, float | None] = {"alpha": None}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
BANKS_DEPEND_ON_EXPERTS = True
OPTIONS: Mapping[str, tuple[str, ...]] = {}
ADAPTERS_ONLY = True


@_spectral.one_thread()
def prepare(setup: Setup) -> State:
    """`bank.up` U·U⊥, `bank.down` V⊥·V, `values` the singular values in float64, `owners` the expert of each value.

    U⊥ and V⊥ are the polar factors of the concatenated top singular vectors of all cores.
    """
    space = _core.core_space(setup)
    if space is None:
        return {}
    if not space.cores.isfinite().all():
        return {**space.banks(), "values": space.cores[0, 0], "owners": torch.zeros(1, dtype=torch.int64)}
    limit = sum(space.ranks) // sum(rank > 0 for rank in space.ranks)
    parts = [_spectral.triplets(core, limit) for core in space.cores]
    up = space.up @ _spectral.isometry(torch.cat([part.left for part in parts], dim=1))
    down = _spectral.isometry(torch.cat([part.right for part in parts])) @ space.down
    owners = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part.values) for part in parts]))
    values = torch.cat([part.values for part in parts])
    return {**space._replace(up=up, down=down).banks(), "values": values, "owners": owners}


def coefficients(setup: Setup, genes: Genes) -> LinComb | LowRank:
    """θ₀ + U·(Σ αᵢM̂ᵢ)·V, with M̂ᵢ the i-th block of U⊥·diag(σ)·V⊥."""
    alphas = np.array([float(values["alpha"]) for values in genes.experts])
    if not setup.state or not alphas.any():
        return LinComb(1.0, (0.0,) * len(alphas))
    return LowRank(np.diag(alphas[setup.state["owners"].numpy()] * setup.state["values"].numpy()))
