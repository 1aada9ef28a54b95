"""MoD: take each MLP weight from one of two models, by its position in the range of the first model's weights.

Dang & Ngo, arXiv 2411.00406. The paper mixes output distributions; this implements its code (knovel-eng/mod), which
mixes weights. The base is the code's first model, and tensors outside the MLPs are the base's, as in the code.
`tensors: all` is for models whose MLP names do not contain "mlp".
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (Gene("threshold", 0.3, 1.0, 0.9, per="group", base=1.0, slope=False),)
SHARED: Mapping[str, float | bool | None] = {"threshold": None}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1)
EXACTNESS: Exactness = "native"
OPTIONS: Mapping[str, tuple[str, ...]] = {"tensors": ("mlp", "all")}


def prepare(setup: Setup) -> State:
    """`range` float64 [2]: the base's smallest and largest element."""
    if not _mixed(setup):
        return {}
    return {"range": torch.stack(setup.sources.base.float().aminmax()).double().cpu()}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ where (θ₀ − min) / (max − min) < threshold, else θ₁.

    A threshold of 1 or more gives θ₀; the code, with a strict comparison, would still take θ₁ at the maximum of θ₀.
    """
    threshold = float(genes.shared["threshold"])
    if threshold >= 1 or not _mixed(setup):
        return LinComb(1.0, (0.0,))
    if threshold <= 0:
        return LinComb(0.0, (1.0,))
    low, high = setup.state["range"].tolist()
    # The relative position in a constant tensor counts as 0, which is below every threshold.
    return Consensus(below, (low + threshold * (high - low) if low != high else float("inf"),))


def below(block: Block) -> Tensor:
    """The update of a block: 0 where the base is below the bound, else the whole task vector."""
    delta = block.deltas[0]
    return torch.where(block.base < block.numbers[0], delta * 0.0, delta)


def _mixed(setup: Setup) -> bool:
    return setup.options["tensors"] == "all" or "mlp" in setup.sources.name
