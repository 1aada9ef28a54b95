"""NearSwap: take the expert's value if it is within `t` of the base's, else move by `t` towards it (as in mergekit).

mergekit's interpolation weight min(1, t/|δ|) is equivalent to clipping the task vector to ±t.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (Gene("t", 0.0, 0.005, 0.001, per="group", base=0.0),)  # fine-tuning moves weights by 1e-4 … 1e-2
SHARED: Mapping[str, float | bool | None] = {"t": None}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

TINY = 1e-6  # smaller differences count as this large (as in mergekit)


def prepare(setup: Setup) -> State:
    """`largest` float64 [1]: max |δ|; with a `t` of at least this the merge is the expert."""
    delta = setup.sources.delta(0).abs_()
    return {"largest": delta.max().double().cpu().view(1)}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + clip(δ, ±t); a `t` below 1e-6 also scales the differences below 1e-6, by t/1e-6."""
    t = float(genes.shared["t"])
    if t <= 0.0:
        return LinComb(1.0, (0.0,))
    if t >= max(TINY, float(setup.state["largest"])):  # false if it is NaN
        return LinComb(0.0, (1.0,))
    return Consensus(clip, (t, min(1.0, t / TINY)))


def clip(block: Block) -> Tensor:
    """clip(δ·scale, ±t); adding δ·0 turns infinity, which a clip would hide, into NaN."""
    t, scale = block.numbers[0], block.numbers[1]
    delta = block.deltas[0]
    return torch.minimum(torch.maximum(delta * scale, -t), t) + delta * 0.0
