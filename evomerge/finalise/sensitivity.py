"""How sensitive the winner's score is to its vector: random points around it are scored on `select`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evomerge.finalise.resampling import ResampledDifference, Resampler
from evomerge.finalise.statistics import ConfidenceInterval, PairedScores, bootstrap
from evomerge.optimizers import Vector
from evomerge.recipes import Recipe
from evomerge.scoring import task_of
from evomerge.searching import Candidate, Evaluator


@dataclass(frozen=True)
class Sensitivity:
    """The mean score of the points around the winner minus the winner's, and the differences of two single points.

    `worst` and `best` are the differences of the worst and the best point. `radius` is the root mean square step of a
    coordinate, in units of the cube's edge.
    """

    radius: float
    points: int
    interval: ConfidenceInterval
    worst: float
    best: float

    @property
    def flat(self) -> bool:
        """Whether the points are on average not significantly worse than the winner."""
        return self.interval.verdict != "worse"


def measure_sensitivity(
    evaluator: Evaluator,
    winner: Candidate,
    decode: Callable[[Vector], Recipe],
    count: int,
    radius: float,
    seed: int,
) -> Sensitivity | None:
    """Score `count` points at a radius around the winner; None if it is a baseline without a vector or all points fail.

    The winner was selected by its score on these items, so its score is biased upwards. A flat optimum may therefore
    look slightly sloped, but a sloped optimum does not look flat.
    """
    if winner.vector is None or not count or not evaluator.item_scores(winner.key, "select"):
        return None
    candidates = [
        Candidate.of(f"cloud/{place}", decode(point))
        for place, point in enumerate(points_around(winner.vector, count, radius, seed))
    ]
    evaluator.evaluate(candidates, "select")
    keys = [candidate.key for candidate in candidates if evaluator.item_scores(candidate.key, "select")]
    if not keys:
        return None
    if evaluator.objective.corpus_level:
        resampler = Resampler(evaluator, "select", seed)
        own, points = resampler.of(winner.key), [resampler.of(key) for key in keys]
        around = [point.score - own.score for point in points]
        interval = ResampledDifference.of(points, own).interval()
        return Sensitivity(radius, len(keys), interval, min(around), max(around))
    winner_items = evaluator.objective_items(winner.key, "select")
    scored = [evaluator.objective_items(key, "select") for key in keys]
    weights = evaluator.objective.weights
    mean = {item: sum(items[item] for items in scored) / len(scored) for item in winner_items}
    interval = bootstrap(PairedScores.of(mean, winner_items, weights, task_of), seed=seed)
    differences = [PairedScores.of(items, winner_items, weights, task_of).difference for items in scored]
    return Sensitivity(radius, len(scored), interval, min(differences), max(differences))


def points_around(centre: Vector, count: int, radius: float, seed: int) -> list[Vector]:
    """Random points in opposite pairs at a distance of `radius` times √dimensions, reflected at the cube's faces."""
    generator, points = np.random.default_rng(seed), list[Vector]()
    while len(points) < count:
        direction = generator.standard_normal(len(centre))
        step = direction * (radius * np.sqrt(len(centre)) / np.linalg.norm(direction))
        points += [_reflected(centre + step), _reflected(centre - step)]
    return points[:count]


def _reflected(point: Vector) -> Vector:
    """The point reflected into the cube, so that the points around an optimum at a bound have the same radius."""
    positive = np.abs(point)
    inside: Vector = np.clip(np.where(positive > 1.0, 2.0 - positive, positive), 0.0, 1.0)
    return inside
