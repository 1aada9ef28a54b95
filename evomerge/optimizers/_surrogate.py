"""The surrogate model: a Gaussian process of the losses so far, which predicts losses and the best point."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from evomerge.optimizers._vector import Vector

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)  # length scales of the kernel, in units of the mean distance between the points
NOISES = (1e-3, 1e-2, 1e-1, 0.5)  # noise variances, in units of the variance of the losses
MIN_POINTS = 4  # fewer points give no model
MAX_POINTS = 150  # only the newest points are used: a search that converges has left the region of the older ones
BATCH = 4096  # points that are predicted at a time, which bounds the memory
STARTS = 5  # starting points of the descent to the minimum


class Surrogate:
    """A Gaussian process with a Matérn 5/2 kernel, refitted to the newest points when it is used.

    Length scale and noise maximise the marginal likelihood (Rasmussen & Williams 2006, ch. 5).
    """

    def __init__(self) -> None:
        self._points: list[Vector] = []
        self._losses: list[float] = []

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """Add points with their losses; points whose loss is not finite are ignored."""
        for vector, loss in zip(vectors, losses, strict=True):
            if math.isfinite(loss):
                self._points.append(vector)
                self._losses.append(loss)

    def predict(self, vectors: Sequence[Vector]) -> Vector:
        """The expected loss of each point, in an arbitrary unit; zeros if there are too few points for a model."""
        model = self._fitted()
        return model(np.array(vectors)) if model else np.zeros(len(vectors))

    def best(self) -> Vector | None:
        """The point of the cube with the lowest expected loss, or None if there are too few points for a model.

        It is found by descent from the points with the lowest expected losses. With noisy losses it is a better choice
        than the point with the lowest observed loss (Picheny, Wagner & Ginsbourger 2013).
        """
        model = self._fitted()
        if model is None:
            return None
        parts = (self._points[start : start + BATCH] for start in range(0, len(self._points), BATCH))
        order = np.argsort(np.concatenate([model(np.array(part)) for part in parts]), kind="stable")[:STARTS]
        ends = [_descended(model, self._points[place]) for place in order]
        return min(ends, key=lambda end: float(model(end[None])[0]))

    def _fitted(self) -> Callable[[Vector], Vector] | None:
        """A function from points [n, dimensions] to expected losses [n]; None with too few points or equal losses."""
        if len(self._losses) < MIN_POINTS or np.ptp(self._losses[-MAX_POINTS:]) == 0.0:
            return None
        points, losses = np.array(self._points[-MAX_POINTS:]), np.array(self._losses[-MAX_POINTS:])
        middle = float(np.median(losses))
        losses = np.minimum(losses, middle + 2.0 * (middle - losses.min()))  # outliers would dominate the fit
        targets = (losses - losses.mean()) / (losses.std() or 1.0)
        distances = _distances(points, points)
        unit = float(distances.mean()) or 1.0  # length scales shrink with the region that the search samples
        fits = [_fit(_matern(distances / (length * unit)), targets) for length in LENGTHS]
        best = max(range(len(LENGTHS)), key=lambda place: fits[place][0])
        length, weights = LENGTHS[best] * unit, fits[best][1]
        return lambda at: np.asarray(_matern(_distances(at, points) / length) @ weights)


def _descended(model: Callable[[Vector], Vector], start: Vector) -> Vector:
    from scipy.optimize import minimize  # half a second, which the check of a configuration need not wait for

    found = minimize(lambda x: float(model(x[None])[0]), start, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(start))
    return np.clip(np.asarray(found.x, dtype=np.float64), 0.0, 1.0)


def _fit(kernel: Vector, targets: Vector) -> tuple[float, Vector]:
    """(log marginal likelihood, weights) with the best of NOISES, from one eigendecomposition for all of them."""
    values, axes = np.linalg.eigh(kernel)
    turned = axes.T @ targets
    found = []
    for noise in NOISES:
        scale = np.maximum(values, 0.0) + noise
        found.append((float(-0.5 * (turned**2 / scale).sum() - 0.5 * np.log(scale).sum()), axes @ (turned / scale)))
    return max(found, key=lambda fit: fit[0])


def _distances(one: Vector, other: Vector) -> Vector:
    """[points of one, points of other]: root mean square differences, whose size does not depend on the dimensions."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2.0 * one @ other.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0) / one.shape[1]), dtype=np.float64)


def _matern(distances: Vector) -> Vector:
    scaled = math.sqrt(5.0) * distances
    return np.asarray((1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled), dtype=np.float64)
