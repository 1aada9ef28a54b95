"""Arcee Fusion: copy the expert's most important elements into the base (as in mergekit).

The importance of an element is |δ| times the Kullback-Leibler divergence of its row. mergekit computes it in the
merge's dtype, although fp32 rounds the divergence of a real fine-tune to zero, and estimates the threshold of a large
tensor from a million random elements. Here both are exact, in float64. `lambda` scales the copied changes; mergekit
does not have it.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb, Sources
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (Gene("lambda", 0.0, 1.5, 1.0, per="group", base=0.0),)
SHARED: Mapping[str, float | bool | None] = {"lambda": 1.0}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1)
EXTENSIONS = ("lambda",)
EXACTNESS: Exactness = "native"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

SMOOTHING = 1e-8  # added to every probability
TILE = 1 << 20  # elements whose divergence is computed at a time
BLOCK = 1 << 14  # columns per sum, each by one thread, so that the number of threads does not change the bits


def prepare(setup: Setup) -> State:
    """`bank.keep` bool: the elements to copy from the expert; `kept` int64 [1]: their number."""
    scores = importance(setup.sources)
    keep = (scores >= threshold(scores.flatten())).view(setup.sources.shape)
    return {"bank.keep": keep, "kept": keep.sum().cpu().view(1)}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ·mask⊙δ."""
    lam = float(genes.shared["lambda"])
    if lam == 0.0 or int(setup.state["kept"]) == setup.sources.shape.numel():
        return LinComb(1.0 - lam, (lam,))
    return Consensus(fuse, (lam,), bank=("keep",))


def fuse(block: Block) -> Tensor:
    """λ·δ where the mask is true, else δ·0, so that NaN of an expert stays visible."""
    delta = block.deltas[0] * block.numbers[0]
    return torch.where(block.bank[0], delta, delta * 0.0)


def importance(sources: Sources) -> Tensor:
    """|δ| · Σ p·log(p/q) over the row, float64 [rows, columns]; p and q are softmax(row) + 1e-8 of expert and base."""
    columns = sources.shape[-1] if sources.shape else 1
    scores = sources.delta(0).abs_().double().view(-1, columns)
    expert, base = sources.expert(0).reshape(-1, columns), sources.base.reshape(-1, columns)
    step = max(1, TILE // columns)
    for first in range(0, len(scores), step):
        rows = slice(first, first + step)
        p, q = (torch.softmax(x[rows].double(), dim=-1).add_(SMOOTHING) for x in (expert, base))
        terms = p * (p / q).log_()
        parts = [terms[:, begin : begin + BLOCK].sum(dim=1) for begin in range(0, columns, BLOCK)]
        scores[rows] *= torch.stack(parts).cumsum(dim=0)[-1:].T
    return scores


def threshold(importance: Tensor) -> float:
    """median + 1.5·(Q₃ − Q₁), with the quantiles at ⌊q·(n − 1)⌋ of the sorted importance; NaN sorts last."""
    places = [int(q * (len(importance) - 1)) for q in (0.25, 0.5, 0.75)]
    if importance.device.type == "cpu":
        ordered = np.partition(importance.numpy(), places)
        low, middle, high = (float(ordered[place]) for place in places)
    else:
        low, middle, high = (float(importance.kthvalue(place + 1).values) for place in places)
    return middle + 1.5 * (high - low)
