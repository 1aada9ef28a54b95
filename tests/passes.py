"""One tensor merged by the plain passes."""

import torch
from torch import Tensor

from evomerge.kernels import Coefficients, Runner, Sources, apply


def merged(coefficients: Coefficients, sources: Sources) -> Tensor:
    """The merged tensor in fp32."""
    out = torch.empty(sources.shape, device=sources.device)
    apply(coefficients, sources, out, Runner())
    return out
