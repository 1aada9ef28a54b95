"""The `lincomb` pass, with `lowrank` for experts that are adapters."""

import torch
from torch import Tensor

from evomerge.kernels.coefficients import LinComb
from evomerge.kernels.lowrank import add_lowrank
from evomerge.kernels.sources import Sources
from evomerge.lora import Factors


def lincomb(sources: Sources, coefficients: LinComb) -> Tensor:
    """Σ cᵢ·xᵢ in fp32; terms with a zero coefficient are not read, so a one-hot combination is its source to the bit.

    Products are rounded before they are added: a fused multiply-add, which some processors have, gives other bytes.

    An adapter is base + ΔW: its coefficient joins the base's, and ΔW is added from its factors, never rounded through
    a dense copy.
    """
    base, dense, factors = coefficients.base, [], []
    for index, weight in enumerate(coefficients.experts):
        update = sources.update(index)
        if isinstance(update, Tensor):
            dense.append((weight, update))
            continue
        base += weight
        if isinstance(update, Factors):
            factors.append((weight, update))
    # 1 − Σw leaves crumbs like 1e-17 where the base cancels exactly; reading it for those would cost one-hot exactness.
    base = 0.0 if abs(base) < 1e-12 else base
    terms = [(weight, tensor) for weight, tensor in [(base, sources.base), *dense] if weight]
    products = (tensor.float() * weight for weight, tensor in terms)
    out = next(products, None)  # not added to zeros, which would turn −0.0 into 0.0
    if out is None:
        out = torch.zeros_like(sources.base, dtype=torch.float32)
    for product in products:
        out.add_(product)
    for weight, factor in factors:
        if weight:
            add_lowrank(out, factor, weight)
    return out
