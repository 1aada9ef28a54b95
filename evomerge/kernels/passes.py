"""Which pass applies which kind of coefficients."""

from torch import Tensor

from evomerge.kernels.coefficients import Coefficients, LinComb, LowRank
from evomerge.kernels.consensus import consensus, lowrank
from evomerge.kernels.lincomb import lincomb
from evomerge.kernels.runner import Runner
from evomerge.kernels.sources import Sources


def apply(coefficients: Coefficients, sources: Sources, out: Tensor, runner: Runner) -> Tensor:
    """Write one merged tensor into `out`, contiguous and of any dtype; a scalar that is 0 where all of it is finite.

    The scalar stays on the device, so that a whole model costs one synchronisation.
    """
    if isinstance(coefficients, LinComb):
        return lincomb(sources, coefficients, out, runner)
    if isinstance(coefficients, LowRank):
        return lowrank(sources, coefficients, out, runner)
    return consensus(sources, coefficients, out, runner)
