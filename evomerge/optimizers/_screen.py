"""A Gaussian process over the points told so far, cheap enough to order many points before any is scored."""

import math
from collections.abc import Sequence

import numpy as np

from evomerge.optimizers import Vector

LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.4)  # of the kernel, for one dimension: × √n
NOISES = (1e-3, 1e-2, 1e-1, 0.5)  # share of the losses' variance


class Screen:
    """Matérn 5/2; length and noise are those of the highest marginal likelihood (Rasmussen & Williams 2006, ch. 5)."""

    def __init__(self) -> None:
        self._points: list[Vector] = []
        self._losses: list[float] = []

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """What failed says nothing."""
        for vector, loss in zip(vectors, losses, strict=True):
            if math.isfinite(loss):
                self._points.append(vector)
                self._losses.append(loss)

    def predict(self, vectors: Sequence[Vector]) -> Vector:
        """The expected loss of each point; all alike where too little is known."""
        if len(self._losses) < 4 or np.ptp(self._losses) == 0.0:
            return np.zeros(len(vectors))
        points, losses = np.array(self._points), np.array(self._losses)
        losses = np.minimum(losses, np.median(losses) + 2.0 * (np.median(losses) - losses.min()))  # far losers alike
        targets = (losses - losses.mean()) / (losses.std() or 1.0)
        fits = [self._fit(points, targets, length, noise) for length in LENGTHS for noise in NOISES]
        _, length, weights = max(fits, key=lambda fit: fit[0])
        return _kernel(np.array(vectors), points, length) @ weights

    def _fit(self, points: Vector, targets: Vector, length: float, noise: float) -> tuple[float, float, Vector]:
        """(log marginal likelihood, length, weights)."""
        scale = length * math.sqrt(points.shape[1])
        factor = np.linalg.cholesky(_kernel(points, points, scale) + (noise + 1e-8) * np.eye(len(points)))
        weights = np.linalg.solve(factor.T, np.linalg.solve(factor, targets))
        return float(-0.5 * targets @ weights - np.log(np.diag(factor)).sum()), scale, weights


def _kernel(one: Vector, other: Vector, length: float) -> Vector:
    distance = np.sqrt(5.0) * np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1)) / length
    return np.asarray((1.0 + distance + distance**2 / 3.0) * np.exp(-distance), dtype=np.float64)
