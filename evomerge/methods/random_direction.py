"""A control, not a merge: task arithmetic whose sum has random signs, the same amount of change in a random direction.

Every element moves as far from the base as in `task_arithmetic`, so that norms of tensors, rows and elements stay; the
signs come from the counter-based generator of the masks, by the recipe's seed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb, mask_keys, shared_round, uniform24
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

# Not a weight: no value of it gives one of the experts.
GENES = (Gene("amount", 0.0, 1.5, 0.3, base=0.0),)
SHARED: Mapping[str, float | bool | None] = {}
PER_EXPERT: Mapping[str, float | None] = {"amount": None}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the signs are made while merging."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + r ∘ Σ aᵢδᵢ with r ∈ {−1, 1} at random, one sign for all experts of an element."""
    amounts = tuple(float(values["amount"]) for values in genes.experts)
    if not any(amounts):
        return LinComb(1.0, amounts)
    return Consensus(flipped, amounts, mask_keys(setup.seed, setup.sources.name, 1))


def flipped(block: Block) -> Tensor:
    """The weighted sum of a block, each element with a random sign."""
    update = block.deltas[0] * block.numbers[0]
    for place in range(1, len(block.deltas)):
        update = update + block.deltas[place] * block.numbers[place]
    coin = uniform24(shared_round(block, block.words[0]), block.words[1], block.index_high) & 1
    return torch.where(coin == 0, update, -update)
