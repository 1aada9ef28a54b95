"""SCE: select differing elements, calculate weights from them, erase minority signs (Wan et al., arXiv 2408.07990).

The method is that of §3.3. As in mergekit, `select_topk` is the fraction of the differing elements, those with the
largest variance over the experts. An expert's weight is its share of the sum of squares of the selected elements. The
sign is elected on the unweighted sum. Elements with equal variances in fp32 are selected together, where mergekit may
take only some of them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _variance
from evomerge.methods._magnitudes import DENSITY_DECIMALS

GENES = (Gene("select_topk", 0.0, 1.0, 0.1, per="group", base=0.0, decimals=DENSITY_DECIMALS, slope=False),)
SHARED: Mapping[str, float | bool | None] = {"select_topk": 1.0, "int8_mask": False}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

TINY = 1e-6  # lower bound of the sum of mean squares and of the sum of agreeing weights (as in mergekit)


def prepare(setup: Setup) -> State:
    """Variance thresholds and sums of squares for every share."""
    return _variance.prepare(setup.sources)


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + Σ wᵢeᵢδ̂ᵢ / Σ wᵢeᵢ with wᵢ = mean(δ̂ᵢ²) / Σ mean(δ̂²), all equal where that sum is below 10⁻⁶."""
    share = float(genes.shared["select_topk"])
    count = len(setup.sources)
    if count == 1 and share >= 1:
        return LinComb(0.0, (1.0,))
    threshold, squares = _variance.selection(setup, share)
    total = sum(squares)
    even = abs(total) / setup.sources.shape.numel() < TINY
    return Consensus(erase_minority, (threshold, *(1.0 / count if even else square / total for square in squares)))


def erase_minority(block: Block) -> Tensor:
    """The weighted mean, per element, of the selected task vectors that agree with the sign of their sum."""
    count = len(block.deltas)
    chosen = _variance.scaled_variance(block.deltas.__getitem__, count) >= block.numbers[0]
    deltas = [torch.where(chosen, delta, delta * 0.0) for delta in block.deltas]
    summed = deltas[0]
    for delta in deltas[1:]:
        summed = summed + delta
    positive = summed >= 0
    total, divisor = torch.zeros_like(summed), torch.zeros_like(summed)
    for i, delta in enumerate(deltas):
        agrees = torch.where(positive, delta > 0, delta < 0)
        total = total + torch.where(agrees, delta, delta * 0.0) * block.numbers[1 + i]
        divisor = divisor + torch.where(agrees, block.numbers[1 + i], 0.0)
    return total / torch.clamp(divisor, min=TINY)
