"""The passes that write merged weights: sums of models, elementwise rules over task vectors, and low-rank updates.

A kernel gets tensors and numbers and writes one tensor: fp32 inside, one rounding at the write, compiled where that
pays, with the same bytes either way. It knows no method, no recipe and no file. The rule: what changes between
candidates travels in tensors of numbers, so that one compiled kernel serves every candidate.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.kernels.coefficients import Block, Coefficients, Consensus, LinComb, LowRank, PerRow, Rule
    from evomerge.kernels.factors import Factors
    from evomerge.kernels.lowrank import concatenate_factors
    from evomerge.kernels.masks import MASK_LEVELS, mask_keys, mask_threshold, shared_round, uniform24
    from evomerge.kernels.passes import apply
    from evomerge.kernels.runner import Runner
    from evomerge.kernels.sources import LazyUpdate, Sources, Update
    from evomerge.kernels.tangents import (
        LowRankTangents,
        dense_derivatives,
        is_zero,
        low_rank_tangents,
        same_form,
        tangent,
    )
    from evomerge.kernels.voting import (
        EXPERTS_PER_BYTE,
        Band,
        Divisor,
        Drop,
        Keep,
        Mask,
        RankDrop,
        Sign,
        Trim,
        Vote,
        vote,
    )
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "EXPERTS_PER_BYTE",
    "MASK_LEVELS",
    "Band",
    "Block",
    "Coefficients",
    "Consensus",
    "Divisor",
    "Drop",
    "Factors",
    "Keep",
    "LazyUpdate",
    "LinComb",
    "LowRank",
    "LowRankTangents",
    "Mask",
    "PerRow",
    "RankDrop",
    "Rule",
    "Runner",
    "Sign",
    "Sources",
    "Trim",
    "Update",
    "Vote",
    "apply",
    "concatenate_factors",
    "dense_derivatives",
    "is_zero",
    "low_rank_tangents",
    "mask_keys",
    "mask_threshold",
    "same_form",
    "shared_round",
    "tangent",
    "uniform24",
    "vote",
]
