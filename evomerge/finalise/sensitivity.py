"""Whether a winner stands on a plateau or on a needle: a small cloud of points around it, scored on `select`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evomerge.finalise.statistics import Interval, PairedScores, paired_bootstrap
from evomerge.optimizers import Vector
from evomerge.recipes import Recipe
from evomerge.scoring import task_of
from evomerge.searching import Candidate, Evaluator


@dataclass(frozen=True)
class Sensitivity:
    """The mean of the cloud against the winner, and the differences of its best and worst point.

    `radius` is the root mean square step of a coordinate, in units of the cube's edge.
    """

    radius: float
    points: int
    interval: Interval
    worst: float
    best: float

    @property
    def flat(self) -> bool:
        """Whether the cloud is no worse than the winner beyond noise."""
        return self.interval.verdict != "worse"


def sensitivity(
    evaluator: Evaluator,
    winner: Candidate,
    decode: Callable[[Vector], Recipe],
    count: int,
    radius: float,
    seed: int,
) -> Sensitivity | None:
    """Score `count` points at a radius around the winner; None where it is no point of the space, or all of them fail.

    The winner was chosen for its luck on these items too, so a flat optimum may look like a slight slope, not the
    other way round.
    """
    best = evaluator.objective_items(winner.key, "select")
    if winner.vector is None or not count or not best:
        return None
    candidates = [
        Candidate.of(f"cloud/{place}", decode(point))
        for place, point in enumerate(cloud(winner.vector, count, radius, seed))
    ]
    evaluator.evaluate(candidates, "select")
    scored = [items for c in candidates if (items := evaluator.objective_items(c.key, "select"))]
    if not scored:
        return None
    mean = {item: sum(items[item] for items in scored) / len(scored) for item in best}
    interval = paired_bootstrap(mean, best, evaluator.objective.weights, task_of, seed=seed)
    differences = [PairedScores.of(items, best, evaluator.objective.weights, task_of).difference for items in scored]
    return Sensitivity(radius, len(scored), interval, min(differences), max(differences))


def cloud(centre: Vector, count: int, radius: float, seed: int) -> list[Vector]:
    """Points in opposite pairs, `radius` times √dimensions away, mirrored where they leave the cube."""
    generator, found = np.random.default_rng(seed), list[Vector]()
    while len(found) < count:
        direction = generator.standard_normal(len(centre))
        step = direction * (radius * np.sqrt(len(centre)) / np.linalg.norm(direction))
        found += [_folded(centre + step), _folded(centre - step)]
    return found[:count]


def _folded(point: Vector) -> Vector:
    """The point mirrored at the faces of the cube, so that an optimum at a bound has a cloud of the same radius."""
    inside = np.abs(point)
    folded: Vector = np.clip(np.where(inside > 1.0, 2.0 - inside, inside), 0.0, 1.0)
    return folded
