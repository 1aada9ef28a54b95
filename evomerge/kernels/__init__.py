"""The passes that apply every method, in plain torch: fp32 inside; the caller rounds once, at the write."""

from torch import Tensor

from evomerge.kernels.coefficients import Coefficients, Consensus, Drop, Keep, LinComb, Mask, Trim
from evomerge.kernels.consensus import consensus
from evomerge.kernels.lincomb import lincomb
from evomerge.kernels.sources import Sources

__all__ = ["Coefficients", "Consensus", "Drop", "Keep", "LinComb", "Mask", "Sources", "Trim", "apply"]


def apply(coefficients: Coefficients, sources: Sources) -> Tensor:
    """One merged tensor in fp32, in the base's shape."""
    if isinstance(coefficients, LinComb):
        return lincomb(sources, coefficients)
    return consensus(sources, coefficients)
