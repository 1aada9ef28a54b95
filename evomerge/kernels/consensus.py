"""The `consensus` pass: sparsify, elect a sign, average, add."""

import torch
from torch import Tensor

from evomerge.kernels.coefficients import Consensus, Drop, Mask, Trim
from evomerge.kernels.masks import drop_mask
from evomerge.kernels.sources import Sources


def apply_mask(delta: Tensor, mask: Mask) -> Tensor:
    """The task vector with the elements that do not take part at zero; works in place."""
    if isinstance(mask, Trim):
        return delta.masked_fill_(delta.abs() < mask.threshold, 0.0)
    if isinstance(mask, Drop):
        # A product, not a fill: NaN and infinity of an expert must not vanish behind a mask.
        return delta.mul_(drop_mask(mask.key, mask.density, delta.shape, delta.device))
    return delta


def consensus(sources: Sources, coefficients: Consensus) -> Tensor:
    """base + λ·Δ in fp32, for any mix of masks, sign election and divisor (formulas at `Consensus`).

    Zero elements never agree with a sign, a zero sum elects +1 (mergekit's rule, TIES eq. 2 leaves it open), and an
    element on which nobody agrees keeps the base's value. Products are rounded before they are added, see `lincomb`.
    """
    deltas = [
        apply_mask(sources.delta(i), mask).mul_(scale)
        for i, (mask, scale) in enumerate(zip(coefficients.masks, coefficients.scales, strict=True))
    ]
    out = torch.zeros_like(sources.base, dtype=torch.float32)
    if coefficients.elect:
        _add_agreeing(out, deltas, coefficients)
    else:
        for weight, delta in zip(coefficients.weights, deltas, strict=True):
            out.add_(delta * weight)
        out.div_(_plain_divisor(coefficients))
    return out.mul_(coefficients.lam).add_(sources.base)


def _plain_divisor(coefficients: Consensus) -> float:
    if not coefficients.normalize:
        return 1.0
    total = sum(coefficients.weights) if coefficients.divisor == "weights" else float(len(coefficients.weights))
    return total if abs(total) >= 1e-8 else 1.0


def _add_agreeing(out: Tensor, deltas: list[Tensor], coefficients: Consensus) -> None:
    elected = torch.zeros_like(out)
    for weight, delta in zip(coefficients.weights, deltas, strict=True):
        elected.add_(delta * weight if coefficients.sign == "weighted" else delta)
    positive = elected >= 0
    divisor = torch.zeros_like(out)
    for weight, delta in zip(coefficients.weights, deltas, strict=True):
        vote = delta * weight if coefficients.sign == "weighted" else delta
        agrees = torch.where(positive, vote > 0, vote < 0)
        out.add_(delta * weight * agrees)
        divisor.add_(agrees * (weight if coefficients.divisor == "weights" else 1.0))
    if coefficients.normalize:
        out.div_(divisor.masked_fill_(divisor == 0, 1.0))
