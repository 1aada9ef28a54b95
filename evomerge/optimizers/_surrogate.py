"""A model of the losses told so far: it orders points before any is scored, and says where the best one may lie."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of the kernel, in mean distances of the points
NOISES = (1e-3, 1e-2, 1e-1, 0.5)  # shares of the losses' variance
LEAST = 4  # points to model anything from
NEWEST = 150  # points that the model is of: the older ones lie elsewhere
STARTS = 5  # of the descent to the model's best point


class Surrogate:
    """A Gaussian process of Matérn 5/2; length and noise are those of the highest marginal likelihood (Rasmussen &
    Williams 2006, ch. 5).
    """

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
        """The expected loss of each point, in an arbitrary unit; all alike where too little is known."""
        model = self._fitted()
        return model(np.array(vectors)) if model else np.zeros(len(vectors))

    def best(self) -> Vector | None:
        """The point of the cube with the lowest expected loss, by descent from the most promising ones told.

        The mean over all that is known is moved less by luck than the best score is (Picheny, Wagner & Ginsbourger
        2013). None where too little is known.
        """
        model = self._fitted()
        if model is None:
            return None
        order = np.argsort(model(np.array(self._points)), kind="stable")[:STARTS]
        ends = [_descended(model, self._points[place]) for place in order]
        return min(ends, key=lambda end: float(model(end[None])[0]))

    def _fitted(self) -> Callable[[Vector], Vector] | None:
        """Expected losses of points [n, dimensions]; None where all is alike."""
        if len(self._losses) < LEAST or np.ptp(self._losses[-NEWEST:]) == 0.0:
            return None
        points, losses = np.array(self._points[-NEWEST:]), np.array(self._losses[-NEWEST:])
        middle = float(np.median(losses))
        losses = np.minimum(losses, middle + 2.0 * (middle - losses.min()))  # how bad the losers are is of no interest
        targets = (losses - losses.mean()) / (losses.std() or 1.0)
        distances = _distances(points, points)
        unit = float(distances.mean()) or 1.0  # a search that has narrowed is modelled where it is
        fits = [_fit(_matern(distances / (length * unit)), targets) for length in LENGTHS]
        best = max(range(len(LENGTHS)), key=lambda place: fits[place][0])
        length, weights = LENGTHS[best] * unit, fits[best][1]
        return lambda at: np.asarray(_matern(_distances(at, points) / length) @ weights)


def _descended(model: Callable[[Vector], Vector], start: Vector) -> Vector:
    from scipy.optimize import minimize  # half a second, which the check of a configuration need not wait for

    found = minimize(lambda x: float(model(x[None])[0]), start, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(start))
    return np.clip(np.asarray(found.x, dtype=np.float64), 0.0, 1.0)


def _fit(kernel: Vector, targets: Vector) -> tuple[float, Vector]:
    """(log marginal likelihood, weights) with the best of NOISES; one decomposition serves them all."""
    values, axes = np.linalg.eigh(kernel)
    turned = axes.T @ targets
    found = []
    for noise in NOISES:
        scale = np.maximum(values, 0.0) + noise
        found.append((float(-0.5 * (turned**2 / scale).sum() - 0.5 * np.log(scale).sum()), axes @ (turned / scale)))
    return max(found, key=lambda fit: fit[0])


def _distances(one: Vector, other: Vector) -> Vector:
    """Root mean square differences: what is near does not depend on the dimensions."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2.0 * one @ other.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0) / one.shape[1]), dtype=np.float64)


def _matern(distances: Vector) -> Vector:
    scaled = math.sqrt(5.0) * distances
    return np.asarray((1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled), dtype=np.float64)
