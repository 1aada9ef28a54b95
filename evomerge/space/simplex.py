"""The unit cube of n − 1 dimensions ↔ the simplex of n weights, by stick breaking without fold or redundancy."""

import numpy as np

from evomerge.optimizers import Vector


def from_cube(point: Vector) -> Vector:
    """Non-negative weights that sum to 1; uniform points of the cube become uniform points of the simplex.

    Each coordinate breaks a share 1 − (1 − u)^(1/m) off the stick, with m weights still to come (Devroye 1986, XI.2).
    """
    left, weights = 1.0, []
    for index, u in enumerate(point):
        share = 1.0 - (1.0 - u) ** (1.0 / (len(point) - index))
        weights.append(left * share)
        left *= 1.0 - share
    return np.array([*weights, left])


def to_cube(weights: Vector) -> Vector:
    """The inverse; coordinates after the stick is used up are 0.5, where any value would do."""
    left, point = 1.0, []
    for index, weight in enumerate(weights[:-1]):
        if left <= 1e-12:
            point.append(0.5)
            continue
        share = min(1.0, weight / left)
        point.append(1.0 - (1.0 - share) ** (len(weights) - 1 - index))
        left -= weight
    return np.array(point)
