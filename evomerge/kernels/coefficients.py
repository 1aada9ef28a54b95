"""What a method says about one tensor: a few numbers for one of the passes."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LinComb:
    """out = base·x₀ + Σ experts[i]·xᵢ, over weights (not task vectors)."""

    base: float
    experts: tuple[float, ...]


@dataclass(frozen=True)
class Keep:
    """Every element takes part."""


@dataclass(frozen=True)
class Trim:
    """Elements with |δ| ≥ threshold take part."""

    threshold: float


@dataclass(frozen=True)
class Drop:
    """Element j takes part where the counter-based generator's u(key, j) < density (masks.py)."""

    key: tuple[int, int]
    density: float


Mask = Keep | Trim | Drop


@dataclass(frozen=True)
class Consensus:
    """out = base + λ·(Σ wᵢ·mᵢ·sᵢ·δ̂ᵢ) / divisor, with masked task vectors δ̂ᵢ scaled by sᵢ.

    `elect` keeps, per element, the experts that agree with the elected sign; the sign is that of Σ wᵢδ̂ᵢ ("weighted")
    or of Σ δ̂ᵢ ("unweighted"). The divisor, where `normalize`, is Σ wᵢ over the agreeing experts ("weights") or their
    number ("count").
    """

    weights: tuple[float, ...]
    masks: tuple[Mask, ...]
    scales: tuple[float, ...]
    elect: bool
    normalize: bool
    lam: float
    sign: Literal["weighted", "unweighted"] = "weighted"
    divisor: Literal["weights", "count"] = "weights"


Coefficients = LinComb | Consensus
