"""EMR's elected task vector: the majority's sign, the largest change of that sign (Huang et al., arXiv 2405.17461).

This is only the "elect" step of EMR-Merging. Its masks and rescalers build one model per task, which is not a merge.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State
from evomerge.methods._elementwise import scaled

# In the paper λ is 1. The range is that of MagMax, whose merged task vectors have a similar norm.
GENES = (Gene("lambda", 0.0, 1.2, 1.0, per="group", base=0.0),)
SHARED: Mapping[str, float | bool | None] = {"lambda": 1.0}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the pass computes the election."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ·γ·maxᵢ |δᵢ| over the experts with sign γ = sgn(Σ δᵢ), element by element."""
    return scaled(elected, genes)


def elected(block: Block) -> Tensor:
    """The update of a block; a zero sum elects −1, as in the authors' code, although sgn(0) = 0."""
    total = block.deltas[0]
    for delta in block.deltas[1:]:
        total = total + delta
    sign = torch.where(total > 0, torch.ones_like(total), -torch.ones_like(total))
    size = (block.deltas[0] * sign).clamp(min=0.0)
    for delta in block.deltas[1:]:
        size = torch.maximum(size, delta * sign)  # propagates NaN
    return size * sign * block.numbers[0]
