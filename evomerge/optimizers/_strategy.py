"""One run of CMA-ES (Hansen, arXiv 1604.00772) by the `cma` package, inside the unit cube."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from evomerge.optimizers import Coordinate, Vector
from evomerge.optimizers._surrogate import Surrogate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cma warns at import where matplotlib is missing
    import cma
    from cma.restricted_gaussian_sampler import GaussVDSampler
    from cma.sigma_adaptation import CMAAdaptSigmaCSA

Randn = Callable[..., Vector]


def _covariance(name: str, randn: Randn) -> dict[str, Any]:
    """cma's options for a full matrix, its diagonal (Ros & Hansen 2008) or D(I + vvᵀ)D (Akimoto et al. 2014)."""
    if name == "vd":  # its sampler draws by itself
        return {**GaussVDSampler.extend_cma_options({}), "CMA_sampler_options": {"randn": randn}}
    return {"CMA_diagonal": name == "diagonal"}


@dataclass(frozen=True)
class Start:
    """Where a run begins, with which step size in units of the cube's edge, and how many points a generation has."""

    point: Vector
    sigma: float
    population: int


class Strategy:
    """Mean, step size and covariance of one run.

    The axes of categories and whole numbers are plateaus: their deviation and mean are kept where a sample leaves the
    mean's cell with a probability of 1 / (dimensions × population) at least, the margin of Hamano et al. (GECCO 2022).
    """

    def __init__(self, start: Start, coordinates: Sequence[Coordinate], covariance: str, randn: Randn) -> None:
        self._dimensions = len(coordinates)
        padding = max(0, 2 - self._dimensions)  # cma needs two dimensions
        size = self._dimensions + padding
        self._half = np.array([0.5 / c.levels if c.levels else 0.0 for c in coordinates] + [0.0] * padding)
        margin = NormalDist().inv_cdf(1.0 - 1.0 / (size * start.population))
        options = {"randn": randn, "bounds": [0, 1], "popsize": start.population, "CMA_mirrors": 0, "verbose": -10}
        # In many dimensions cma would go by a pair of mirrored points, which no choice among points may part.
        options |= {"AdaptSigma": CMAAdaptSigmaCSA}
        options |= {"minstd": self._half / margin} if self._half.any() else {}
        point = np.full(size, 0.5)
        point[: self._dimensions] = np.clip(start.point, 0.0, 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a first step below a margin
            self._cma = cma.CMAEvolutionStrategy(point, start.sigma, options | _covariance(covariance, randn))
        self._asked: list[Vector] = []
        self.population = start.population
        self.generations, self._improved = 0, 0
        self.best = math.inf

    def ask(self, screen: Surrogate | None = None, factor: int = 1) -> list[Vector]:
        """A generation, clipped where cma's bound handling leaves rounding crumbs.

        Of `factor` times as many points those are kept that `screen` finds most promising (pre-selection: Kern et al.
        2006; Loshchilov, Schoenauer & Sebag 2012).
        """
        drawn = [np.array(x, dtype=np.float64) for x in self._cma.ask(self.population * factor)]
        points = [np.clip(x, 0.0, 1.0)[: self._dimensions] for x in drawn]
        kept = np.argsort(screen.predict(points), kind="stable")[: self.population] if screen else range(len(points))
        self._asked = [drawn[i] for i in kept]
        return [points[i] for i in kept]

    def tell(self, losses: Sequence[float]) -> None:
        """Update mean, step size and covariance; told exactly what was asked, or the active update is lost."""
        self.generations += 1
        best = min(losses)
        if best < self.best:
            self.best, self._improved = best, self.generations
        if math.isfinite(best):  # a generation of failures teaches nothing
            self._cma.tell(self._asked, list(losses))
            self._keep_margin()

    def centre(self) -> Vector:
        """The mean of the distribution, inside the bounds."""
        favourite = np.asarray(self._cma.result.xfavorite, dtype=np.float64)
        return np.clip(favourite, 0.0, 1.0)[: self._dimensions]

    def has_ended(self, tolerance: float) -> bool:
        """Whether no continuous axis varies by `tolerance`, or nothing became better for 10 + 30 n/λ generations."""
        wide = self._cma.stds[self._half == 0.0]
        patience = 10 + math.ceil(30 * self._dimensions / self.population)
        return bool((wide < tolerance).all()) or self.generations - self._improved >= patience

    def _keep_margin(self) -> None:
        """Past the middle of an outermost cell the mean would need a larger step to leave it."""
        if self._half.any():
            handler = self._cma.boundary_handler  # the mean is in cma's own coordinates, which bend near the bounds
            low, high = handler.inverse(self._half), handler.inverse(1.0 - self._half)
            held = self._half > 0.0
            self._cma.mean[held] = np.clip(self._cma.mean, low, high)[held]
