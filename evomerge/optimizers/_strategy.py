"""One run of CMA-ES (Hansen, arXiv 1604.00772) inside the unit cube, by the `cma` package."""

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
    """cma's options for a full covariance, a diagonal (Ros & Hansen 2008) or D(I + vvᵀ)D (Akimoto et al. 2014)."""
    if name == "vd":  # this sampler does not use the option `randn` of the strategy
        return {**GaussVDSampler.extend_cma_options({}), "CMA_sampler_options": {"randn": randn}}
    return {"CMA_diagonal": name == "diagonal"}


@dataclass(frozen=True)
class Start:
    """The mean, the step size in units of the cube's edge and the population with which a run starts.

    `scales` are factors of the step size, one for each axis; None means 1 for all.
    """

    point: Vector
    sigma: float
    population: int
    scales: Vector | None = None


class Strategy:
    """Mean, step size and covariance of one run.

    The loss is constant within a cell of an axis with levels. The mean and standard deviation of such an axis are
    bounded so that a sample leaves the mean's cell with a probability of at least 1 / (dimensions × population): the
    margin of Hamano et al. (GECCO 2022).
    """

    def __init__(self, start: Start, coordinates: Sequence[Coordinate], covariance: str, randn: Randn) -> None:
        self._dimensions = len(coordinates)
        padding = max(0, 2 - self._dimensions)  # cma requires at least two dimensions
        size = self._dimensions + padding
        self._half = np.array([0.5 / c.levels if c.levels else 0.0 for c in coordinates] + [0.0] * padding)
        margin = NormalDist().inv_cdf(1.0 - 1.0 / (size * start.population))
        options = {"randn": randn, "bounds": [0, 1], "popsize": start.population, "CMA_mirrors": 0, "verbose": -10}
        # In many dimensions cma's default step-size rule needs pairs of mirrored points, which screening may separate.
        options |= {"AdaptSigma": CMAAdaptSigmaCSA}
        options |= {"minstd": self._half / margin} if self._half.any() else {}
        if start.scales is not None:
            options["CMA_stds"] = np.concatenate([start.scales, np.ones(padding)])
        point = np.full(size, 0.5)
        point[: self._dimensions] = np.clip(start.point, 0.0, 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cma warns if the first step size is below a margin
            self._cma = cma.CMAEvolutionStrategy(point, start.sigma, options | _covariance(covariance, randn))
        self._asked: list[Vector] = []
        self._has_drawn = False  # since the last update, which cma demands
        self.population = start.population
        self.generations, self._improved = 0, 0
        self.best = math.inf

    def ask(self, screen: Surrogate | None = None, factor: int = 1) -> list[Vector]:
        """A generation, clipped to the cube because cma's bound handling leaves rounding errors.

        With a surrogate model `screen`, `factor` times as many points are sampled and those with the lowest predicted
        losses are returned (pre-selection: Kern et al. 2006; Loshchilov, Schoenauer & Sebag 2012).
        """
        drawn = self._draw(self.population * factor)
        points = [self.inside(x) for x in drawn]
        kept = np.argsort(screen.predict(points), kind="stable")[: self.population] if screen else range(len(points))
        self._asked = [drawn[i] for i in kept]
        return [points[i] for i in kept]

    def sample(self, screen: Surrogate | None = None, factor: int = 1) -> list[Vector]:
        """A generation in cma's own terms, in the order drawn; `inside` gives their points of the cube."""
        drawn = self._draw(self.population * factor)
        if not screen or factor == 1:
            return drawn
        order = np.argsort(screen.predict([self.inside(x) for x in drawn]), kind="stable")
        return [drawn[place] for place in sorted(order[: self.population])]

    def inside(self, drawn: Vector) -> Vector:
        """The point of the cube of a drawn vector."""
        return np.clip(drawn, 0.0, 1.0)[: self._dimensions]

    def update(self, drawn: Sequence[Vector], losses: Sequence[float]) -> None:
        """Update with the losses of a population of vectors, also of points of the cube that were drawn elsewhere.

        cma counts vectors of its last 30 populations as sampled. It moves others towards the mean, to a Mahalanobis
        distance of √n + 2n/(n + 2) at most: injected points (Hansen, arXiv 1110.4181).
        """
        if not self._has_drawn:
            self._draw(1)
        size = len(self._half)
        self._asked = [np.concatenate([x, np.full(size - len(x), 0.5)]) for x in drawn]
        self.tell(losses)

    def _draw(self, count: int) -> list[Vector]:
        self._has_drawn = True
        return [np.array(x, dtype=np.float64) for x in self._cma.ask(count)]

    def tell(self, losses: Sequence[float]) -> None:
        """Update mean, step size and covariance with the losses of all asked points, which the active update needs."""
        self.generations += 1
        best = min(losses)
        if best < self.best:
            self.best, self._improved = best, self.generations
        if math.isfinite(best):  # a generation in which every candidate failed has no ranking
            self._cma.tell(self._asked, list(losses))
            self._has_drawn = False
            self._keep_margin()

    def centre(self) -> Vector:
        """The mean of the distribution, inside the bounds."""
        mean = np.asarray(self._cma.result.xfavorite, dtype=np.float64)
        return np.clip(mean, 0.0, 1.0)[: self._dimensions]

    def has_ended(self, tolerance: float) -> bool:
        """Whether all continuous axes have a standard deviation below `tolerance`, or the run stagnates.

        A run stagnates after 10 + 30 n/λ generations without a better loss.
        """
        wide = self._cma.stds[self._half == 0.0]
        patience = 10 + math.ceil(30 * self._dimensions / self.population)
        return bool((wide < tolerance).all()) or self.generations - self._improved >= patience

    def _keep_margin(self) -> None:
        """Keep the mean of axes with levels between the middles of the outermost cells, as the margin assumes."""
        if self._half.any():
            handler = self._cma.boundary_handler  # cma's mean is in its own coordinates, nonlinear near the bounds
            low, high = handler.inverse(self._half), handler.inverse(1.0 - self._half)
            held = self._half > 0.0
            self._cma.mean[held] = np.clip(self._cma.mean, low, high)[held]
