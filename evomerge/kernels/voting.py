"""The rule of the TIES family: sparsify, elect a sign, average what agrees."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.coefficients import Block, Consensus
from evomerge.kernels.masks import limit, shared_round, uniform24

Sign = Literal["weighted", "unweighted"]
Divisor = Literal["weights", "count"]
Kind = Literal["keep", "trim", "band", "drop", "rank"]


@dataclass(frozen=True)
class Keep:
    """Every element takes part."""


@dataclass(frozen=True)
class Trim:
    """Elements with |δ| ≥ low take part."""

    low: float


@dataclass(frozen=True)
class Band:
    """Elements with low ≤ |δ| ≤ high take part."""

    low: float
    high: float


@dataclass(frozen=True)
class Drop:
    """A random share `density` of the elements takes part (masks.py)."""

    density: float


@dataclass(frozen=True)
class RankDrop(Drop):
    """The share is `density` + `epsilon` for elements whose coin (`bank.coins.N`) shows heads, and − `epsilon` else.

    Coins that show heads with probability rank/(n − 1) make it DELLA's law: density − epsilon + 2·epsilon·rank/(n − 1).
    """

    epsilon: float


Mask = Keep | Trim | Band | Drop | RankDrop
COINS = 8  # experts per byte of a bank of coins


@dataclass(frozen=True)
class Vote:
    """λ·(Σ wᵢ·mᵢ·sᵢ·δ̂ᵢ) / divisor, with masked task vectors δ̂ᵢ scaled by sᵢ; `kind` is how they were masked.

    `elect` keeps, per element, the experts that agree with the elected sign; the sign is that of Σ wᵢδ̂ᵢ ("weighted")
    or of Σ δ̂ᵢ ("unweighted"). The divisor, where `normalize`, is Σ wᵢ over the agreeing experts ("weights") or their
    number ("count"). Zero elements never agree with a sign, a zero sum elects +1 (mergekit's rule, TIES eq. 2 leaves it
    open), and an element on which nobody agrees keeps the base's value.
    """

    kind: Kind
    elect: bool
    normalize: bool
    sign: Sign
    divisor: Divisor

    def __call__(self, block: Block) -> Tensor:
        """The update of a block; `numbers` are λ and then rows of weights, scales, lows and highs."""
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
            shares = [weights[i] if self.divisor == "weights" else one for i in range(count)]
            divisor = _sum([torch.where(a, share, 0.0) for a, share in zip(agree, shares, strict=True)])
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
            shares = [self._share(block, i) for i in range(count)]
            inside = [uniform24(mixed, block.words[1 + i], block.high) < share for i, share in enumerate(shares)]
        else:
            return list(block.deltas)
        # A product, not a zero: NaN and infinity of an expert must not vanish behind a mask.
        return [torch.where(k, delta, delta * 0.0) for k, delta in zip(inside, block.deltas, strict=True)]

    def _share(self, block: Block, expert: int) -> Tensor:
        """The limit below which an element's 24-bit number keeps it."""
        count = len(block.deltas)
        first = block.words[1 + count + expert]
        if self.kind == "drop":
            return first
        coin = (block.bank[expert // COINS].to(torch.int32) >> (expert % COINS)) & 1
        return torch.where(coin == 1, first, block.words[1 + 2 * count + expert])


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
    """The `Consensus` of a vote; masks are of one class, or some of them `Keep`. `keys` are `mask_keys`, for `Drop`."""
    kinds = {type(mask) for mask in masks} - {Keep}
    kind: Kind = "keep"
    lows: list[float] = []
    highs: list[float] = []
    words: tuple[int, ...] = ()
    bank: tuple[str, ...] = ()
    if RankDrop in kinds:
        kind, words = "rank", (*keys, *_limits(masks, +1), *_limits(masks, -1))
        bank = tuple(f"coins.{i}" for i in range(-(-len(masks) // COINS)))
    elif kinds == {Drop}:
        kind, words = "drop", (*keys, *_limits(masks, 0))
    elif kinds:
        kind = "band" if Band in kinds else "trim"
        lows = [mask.low if isinstance(mask, Trim | Band) else 0.0 for mask in masks]
        highs = [mask.high if isinstance(mask, Band) else float("inf") for mask in masks]
    if not elect and normalize:
        total = sum(weights) if divisor == "weights" else float(len(weights))
        lam, normalize = lam / (total if abs(total) >= 1e-8 else 1.0), False
    rule = Vote(kind, elect, normalize, sign, divisor)
    return Consensus(rule, (lam, *weights, *scales, *lows, *highs), words, bank)


def _limits(masks: Sequence[Mask], side: int) -> Iterator[int]:
    """What keeps an element, per expert; `side` is +1 for heads and −1 for tails."""
    for mask in masks:
        spread = side * mask.epsilon if isinstance(mask, RankDrop) else 0.0
        yield limit(mask.density + spread) if isinstance(mask, Drop) else limit(1.0)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
