"""Arcee Fusion: take over the expert's most important elements (as in mergekit).

An element's importance is |δ| times the Kullback-Leibler divergence of its row. mergekit computes it in the merge's
dtype, where fp32 rounds the divergence of a real fine-tune away, and estimates the threshold of a large tensor from a
random million elements; here it is float64 and exact. `lambda`, which mergekit does not read, scales what is taken.
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
BLOCK = 1 << 14  # columns summed by one thread in a fixed order, so that thread counts change no bit


def prepare(setup: Setup) -> State:
    """`bank.keep` bool: the elements that are taken over; `kept` int64 [1]: how many they are."""
    found = importance(setup.sources)
    keep = (found >= threshold(found.flatten())).view(setup.sources.shape)
    return {"bank.keep": keep, "kept": keep.sum().cpu().view(1)}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ·mask⊙δ."""
    lam = float(genes.shared["lambda"])
    if lam == 0.0 or int(setup.state["kept"]) == setup.sources.shape.numel():
        return LinComb(1.0 - lam, (lam,))
    return Consensus(fuse, (lam,), bank=("keep",))


def fuse(block: Block) -> Tensor:
    """λ·δ where the mask keeps it; a product with 0 elsewhere, so that NaN of an expert shows."""
    delta = block.deltas[0] * block.numbers[0]
    return torch.where(block.bank[0], delta, delta * 0.0)


def importance(sources: Sources) -> Tensor:
    """|δ| · Σ p·log(p/q) over the row, float64 [rows, columns]; p and q are softmax(row) + 1e-8 of expert and base."""
    columns = sources.shape[-1] if sources.shape else 1
    found = sources.delta(0).abs_().double().view(-1, columns)
    expert, base = sources.expert(0).reshape(-1, columns), sources.base.reshape(-1, columns)
    step = max(1, TILE // columns)
    for first in range(0, len(found), step):
        rows = slice(first, first + step)
        p, q = (torch.softmax(x[rows].double(), dim=-1).add_(SMOOTHING) for x in (expert, base))
        terms = p * (p / q).log_()
        parts = [terms[:, begin : begin + BLOCK].sum(dim=1) for begin in range(0, columns, BLOCK)]
        found[rows] *= torch.stack(parts).cumsum(dim=0)[-1:].T
    return found


def threshold(importance: Tensor) -> float:
    """median + 1.5·(Q₃ − Q₁), each the element at ⌊q·(n − 1)⌋ of the sorted importance; NaN is the largest."""
    places = [int(q * (len(importance) - 1)) for q in (0.25, 0.5, 0.75)]
    if importance.device.type == "cpu":
        ordered = np.partition(importance.numpy(), places)
        low, middle, high = (float(ordered[place]) for place in places)
    else:
        low, middle, high = (float(importance.kthvalue(place + 1).values) for place in places)
    return middle + 1.5 * (high - low)
