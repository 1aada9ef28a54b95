"""The entry point of the kernels: it selects the pass by the type of the coefficients."""

from torch import Tensor

from evomerge.kernels.coefficients import Coefficients, LinComb, LowRank
from evomerge.kernels.consensus import consensus, lowrank
from evomerge.kernels.lincomb import lincomb
from evomerge.kernels.runner import Runner
from evomerge.kernels.sources import Sources


def apply(coefficients: Coefficients, sources: Sources, out: Tensor, runner: Runner) -> Tensor:
    """Write one merged tensor into `out`, which is contiguous and of any dtype.

    Returns a scalar on the device that is 0 if every element is finite: a whole model needs one synchronisation.
    """
    if isinstance(coefficients, LinComb):
        return lincomb(sources, coefficients, out, runner)
    if isinstance(coefficients, LowRank):
        return lowrank(sources, coefficients, out, runner)
    return consensus(sources, coefficients, out, runner)
