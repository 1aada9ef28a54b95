"""The elementwise rule of the TIES family: sparsify, elect a sign, average the task vectors that agree with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.coefficients import Block, Consensus
from evomerge.kernels.masks import mask_threshold, shared_round, uniform24

Sign = Literal["weighted", "unweighted"]
Divisor = Literal["weights", "count"]
Kind = Literal["keep", "trim", "band", "drop", "rank"]


@dataclass(frozen=True)
class Keep:
    """Keeps every element."""


@dataclass(frozen=True)
class Trim:
    """Keeps elements with |δ| ≥ low."""

    low: float


@dataclass(frozen=True)
class Band:
    """Keeps elements with low ≤ |δ| ≤ high."""

    low: float
    high: float


@dataclass(frozen=True)
class Drop:
    """Keeps each element with probability `density` (masks.py)."""

    density: float


@dataclass(frozen=True)
class RankDrop(Drop):
    """Keeps an element with probability density ± epsilon, by its coin in `bank.coins.N`: + for heads, − for tails.

    If a coin is heads with probability rank/(n − 1), the element is kept with DELLA's probability
    density − epsilon + 2·epsilon·rank/(n − 1).
    """

    epsilon: float


Mask = Keep | Trim | Band | Drop | RankDrop
EXPERTS_PER_BYTE = 8  # in a bank of coins, which has one bit per expert


@dataclass(frozen=True)
class Vote:
    """λ·(Σ wᵢ·mᵢ·sᵢ·δ̂ᵢ) / divisor, where δ̂ᵢ are the masked task vectors, sᵢ their scales and `kind` the type of mask.

    With `elect`, mᵢ selects per element the experts that agree with the elected sign: the sign of Σ wᵢδ̂ᵢ ("weighted")
    or of Σ δ̂ᵢ ("unweighted"). With `normalize`, the divisor is Σ wᵢ over the agreeing experts ("weights") or their
    number ("count"). A zero element agrees with no sign. A zero sum elects +1, as in mergekit; TIES eq. 2 does not
    define this case. An element on which no expert agrees keeps the base's value.
    """

    kind: Kind
    elect: bool
    normalize: bool
    sign: Sign
    divisor: Divisor

    def __call__(self, block: Block) -> Tensor:
        """The update of a block; `numbers` are λ, then the weights, scales, lower and upper bounds of all experts."""
        count = len(block.deltas)
        lam, weights, scales = block.numbers[0], block.numbers[1:], block.numbers[1 + count :]
        deltas = [delta * scales[i] for i, delta in enumerate(self._masked(block))]
        votes = [delta * weights[i] for i, delta in enumerate(deltas)]
        if not self.elect:
            return _sum(votes) * lam
        voters = votes if self.sign == "weighted" else deltas
        positive = _sum(voters) >= 0
        agree = [torch.where(positive, vote > 0, vote < 0) for vote in voters]
        total = _sum([torch.where(a, vote, vote * 0.0) for a, vote in zip(agree, votes, strict=True)])
        if self.normalize:
            one = torch.ones_like(lam)
            counted = [weights[i] if self.divisor == "weights" else one for i in range(count)]
            divisor = _sum([torch.where(a, number, 0.0) for a, number in zip(agree, counted, strict=True)])
            total = total / torch.where(divisor == 0, 1.0, divisor)
        return total * lam

    def _masked(self, block: Block) -> list[Tensor]:
        count = len(block.deltas)
        low, high = block.numbers[1 + 2 * count :], block.numbers[1 + 3 * count :]
        if self.kind == "trim":
            return [torch.where(delta.abs() < low[i], 0.0, delta) for i, delta in enumerate(block.deltas)]
        if self.kind == "band":
            inside = [(delta.abs() >= low[i]) & (delta.abs() <= high[i]) for i, delta in enumerate(block.deltas)]
        elif self.kind in ("drop", "rank"):
            mixed = shared_round(block, block.words[0])
            bounds = [self._threshold(block, i) for i in range(count)]
            inside = [uniform24(mixed, block.words[1 + i], block.index_high) < bound for i, bound in enumerate(bounds)]
        else:
            return list(block.deltas)
        # A product with 0, not 0 itself, so that a mask does not hide NaN or infinity of an expert.
        return [torch.where(k, delta, delta * 0.0) for k, delta in zip(inside, block.deltas, strict=True)]

    def _threshold(self, block: Block, expert: int) -> Tensor:
        """The threshold below which the 24-bit number of an element keeps it."""
        count = len(block.deltas)
        heads = block.words[1 + count + expert]
        if self.kind == "drop":
            return heads
        coin = (block.bank[expert // EXPERTS_PER_BYTE].to(torch.int32) >> (expert % EXPERTS_PER_BYTE)) & 1
        return torch.where(coin == 1, heads, block.words[1 + 2 * count + expert])


def vote(
    masks: Sequence[Mask],
    weights: Sequence[float],
    scales: Sequence[float],
    *,
    elect: bool,
    normalize: bool,
    lam: float,
    sign: Sign = "weighted",
    divisor: Divisor = "weights",
    keys: tuple[int, ...] = (),
) -> Consensus:
    """The `Consensus` of a vote; masks other than `Keep` have one class, and `keys` are the `mask_keys` for `Drop`."""
    kinds = {type(mask) for mask in masks} - {Keep}
    kind: Kind = "keep"
    lows: list[float] = []
    highs: list[float] = []
    words: tuple[int, ...] = ()
    bank: tuple[str, ...] = ()
    if RankDrop in kinds:
        kind, words = "rank", (*keys, *_thresholds(masks, +1), *_thresholds(masks, -1))
        bank = tuple(f"coins.{i}" for i in range(-(-len(masks) // EXPERTS_PER_BYTE)))
    elif kinds == {Drop}:
        kind, words = "drop", (*keys, *_thresholds(masks, 0))
    elif kinds:
        kind = "band" if Band in kinds else "trim"
        lows = [mask.low if isinstance(mask, Trim | Band) else 0.0 for mask in masks]
        highs = [mask.high if isinstance(mask, Band) else float("inf") for mask in masks]
    if not elect and normalize:
        total = sum(weights) if divisor == "weights" else float(len(weights))
        lam, normalize = lam / (total if abs(total) >= 1e-8 else 1.0), False
    rule = Vote(kind, elect, normalize, sign, divisor)
    return Consensus(rule, (lam, *weights, *scales, *lows, *highs), words, bank)


def _thresholds(masks: Sequence[Mask], side: int) -> Iterator[int]:
    """One 24-bit threshold per expert; `side` is +1 for heads and −1 for tails."""
    for mask in masks:
        offset = side * mask.epsilon if isinstance(mask, RankDrop) else 0.0
        yield mask_threshold(mask.density + offset) if isinstance(mask, Drop) else mask_threshold(1.0)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
