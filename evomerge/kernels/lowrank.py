"""The `lowrank` pass: an adapter's update added from its factors."""

from torch import Tensor

from evomerge.lora import Factors


def add_lowrank(out: Tensor, factors: Factors, weight: float) -> None:
    """out += weight·scale·up@down, in place on an fp32 matrix."""
    out.addmm_(factors.up.float(), factors.down.float(), alpha=weight * factors.scale)
