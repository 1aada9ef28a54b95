"""MagMax: for each element the change with the largest magnitude (Marczak et al., ECCV 2024, arXiv 2407.06322)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State
from evomerge.methods._elementwise import scaled

GENES = (Gene("lambda", 0.0, 1.2, 0.5, per="group", base=0.0),)
SHARED: Mapping[str, float | bool | None] = {"lambda": None}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the pass selects the elements."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ·δₘ, element by element, with m = argmaxᵢ |δᵢ|."""
    return scaled(largest, genes)


def largest(block: Block) -> Tensor:
    """The update of a block; among equal magnitudes the last expert wins, as in the authors' code."""
    update = block.deltas[0]
    for delta in block.deltas[1:]:
        # NaN compares false, so it is added explicitly and stays visible if the other value is selected.
        nan_or_zero = (update + delta) * 0.0
        update = torch.where(delta.abs() >= update.abs(), delta, update) + nan_or_zero
    return update * block.numbers[0]
