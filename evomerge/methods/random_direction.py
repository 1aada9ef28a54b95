"""A control experiment, not a merge: task arithmetic with random signs, which changes as much in a random direction.

Every element moves as far from the base as in `task_arithmetic`, so the norms of elements, rows and tensors are the
same. The signs come from the counter-based generator of the masks and depend on the recipe's seed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb, mask_keys, shared_round, uniform24
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

# Not named `weight`, because no value of it gives one of the experts.
GENES = (Gene("amount", 0.0, 1.5, 0.3, base=0.0),)
SHARED: Mapping[str, float | bool | None] = {}
PER_EXPERT: Mapping[str, float | None] = {"amount": None}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the pass computes the signs."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + r ∘ Σ aᵢδᵢ where r ∈ {−1, 1} is random, with one sign per element for all experts."""
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
