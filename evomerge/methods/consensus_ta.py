"""Consensus task arithmetic: drop elements that fewer than k experts need (Wang et al., ICML 2024, arXiv 2405.07813).

An expert needs an element (its TALL mask) if its own change is larger than κ times the summed change of the others.
If all experts have equal task vectors and κ ≥ 1/(N−1), no expert needs any element and the merge is the base.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.kernels import Block, Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (
    Gene("kappa", 0.2, 0.6, 0.4, decimals=2, slope=False),  # the paper selects one of 0.2, 0.3 … 0.6 for each task
    Gene("alpha", 0.0, 1.0, 0.3, per="group", base=0.0),
)
SHARED: Mapping[str, float | bool | None] = {"alpha": None, "k": 2.0}
PER_EXPERT: Mapping[str, float | None] = {"kappa": 0.4}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (2, 1000)
EXACTNESS: Exactness = "native"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the pass computes the masks."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + α·[Σ mᵢ ≥ k]·Σ δⱼ with mᵢ = [|δᵢ| > κᵢ·|Σ δⱼ − δᵢ|], element by element."""
    alpha, k, count = float(genes.shared["alpha"]), float(genes.shared["k"]), len(genes.experts)
    if k > count:
        raise CandidateError(f"consensus_ta: k={k:g} of {count} experts agree on nothing; lower k or add experts")
    if alpha == 0 or k <= 0:
        return LinComb(1.0 - count * alpha, (alpha,) * count)
    return Consensus(agreed, (alpha, k, *(float(values["kappa"]) for values in genes.experts)))


def agreed(block: Block) -> Tensor:
    """The update of a block; `numbers` are α, k and one κ per expert."""
    total = block.deltas[0]
    for delta in block.deltas[1:]:
        total = total + delta
    needed = torch.zeros_like(total)
    for i, delta in enumerate(block.deltas):
        needed = needed + (delta.abs() > block.numbers[2 + i] * (total - delta).abs()).float()
    # A product with 0, not 0 itself, so that the mask does not hide NaN or infinity of an expert.
    return torch.where(needed >= block.numbers[1], total, total * 0.0) * block.numbers[0]
