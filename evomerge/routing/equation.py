"""The linear equation of a calibrated router, and its solution by conjugate gradients.

Huang et al. 2026, "When Model Merging Breaks Routing: Training-Free Calibration for MoE" (HARC).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ITERATIONS = 1000
TOLERANCE = 1e-6  # of the residual, relative to the right-hand side


@dataclass(frozen=True)
class _Domain:
    """Inputs [tokens, hidden] of a router, its source's weight [experts, hidden], and the source's probabilities."""

    inputs: Tensor
    source: Tensor
    probabilities: Tensor


class RouterEquation:
    """Σᵢ Hᵢ(W) = Σᵢ Hᵢ(Wᵢ) over domains i, with Hᵢ(W) the mean over tokens x of (diag p − p pᵀ) W x xᵀ.

    p = softmax(Wᵢ x), so Hᵢ is the curvature of the Kullback-Leibler divergence between the routing of the source Wᵢ
    and that of W, at Wᵢ. Off its diagonal the curvature is multiplied by `shrinkage`. All of it is float64.
    """

    def __init__(self, shrinkage: float) -> None:
        self._shrinkage = shrinkage
        self._domains: list[_Domain] = []
        self._diagonal: Tensor | None = None
        self._right: Tensor | None = None

    def add(self, inputs: Tensor, source: Tensor) -> None:
        """Add a domain: the router's inputs [tokens, hidden], and the weight [experts, hidden] of its source."""
        inputs, source = inputs.double(), source.double()
        probabilities = (inputs @ source.T).softmax(-1)
        domain = _Domain(inputs, source, probabilities)
        diagonal = (probabilities * (1 - probabilities)).T @ inputs.square() / len(inputs)
        right = self._curvature(domain, source, diagonal)
        self._domains.append(domain)
        self._diagonal = diagonal if self._diagonal is None else self._diagonal + diagonal
        self._right = right if self._right is None else self._right + right

    def solve(self, start: Tensor) -> Tensor:
        """The weight [experts, hidden] in float64, found from `start`, in whose direction it is not determined."""
        assert self._right is not None, "an equation without a domain"
        weight = start.double().clone()
        residual = self._right - self._apply(weight)
        direction, size = residual.clone(), residual.square().sum()
        limit = TOLERANCE * self._right.norm()
        for _ in range(ITERATIONS):
            if size.sqrt() <= limit:
                break
            image = self._apply(direction)
            step = size / (direction * image).sum()
            weight += step * direction
            residual -= step * image
            new_size = residual.square().sum()
            direction, size = residual + new_size / size * direction, new_size
        return weight

    def _apply(self, weight: Tensor) -> Tensor:
        assert self._diagonal is not None
        full = sum((self._full(domain, weight) for domain in self._domains), torch.zeros_like(weight))
        return self._shrinkage * full + (1 - self._shrinkage) * self._diagonal * weight

    def _curvature(self, domain: _Domain, weight: Tensor, diagonal: Tensor) -> Tensor:
        return self._shrinkage * self._full(domain, weight) + (1 - self._shrinkage) * diagonal * weight

    @staticmethod
    def _full(domain: _Domain, weight: Tensor) -> Tensor:
        logits = domain.inputs @ weight.T
        weighted = domain.probabilities * logits
        centred = weighted - domain.probabilities * weighted.sum(-1, keepdim=True)
        return centred.T @ domain.inputs / len(domain.inputs)
