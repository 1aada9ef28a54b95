"""A one-to-one map between the unit cube of n − 1 dimensions and the simplex of n weights, by stick breaking."""

import numpy as np

from evomerge.optimizers import Vector

STEP = 1e-6  # of differences; the derivative at 1 is infinite for more than two weights


def from_cube(point: Vector) -> Vector:
    """Non-negative weights that sum to 1; a uniform distribution on the cube gives a uniform one on the simplex.

    Each coordinate u breaks a share 1 − (1 − u)^(1/m) off the stick, where m weights remain (Devroye 1986, XI.2).
    """
    left, weights = 1.0, []
    for index, u in enumerate(point):
        share = 1.0 - (1.0 - u) ** (1.0 / (len(point) - index))
        weights.append(left * share)
        left *= 1.0 - share
    return np.array([*weights, left])


def jacobian(point: Vector) -> Vector:
    """The derivatives [weights, coordinates] of `from_cube`, by central differences inside the cube."""
    columns = []
    for place in range(len(point)):
        low, high = point.copy(), point.copy()
        low[place], high[place] = max(0.0, point[place] - STEP), min(1.0 - STEP, point[place] + STEP)
        columns.append((from_cube(high) - from_cube(low)) / (high[place] - low[place]))
    return np.stack(columns, axis=1)


def to_cube(weights: Vector) -> Vector:
    """The inverse of `from_cube`; coordinates after the stick is used up have no effect and are 0.5."""
    left, point = 1.0, []
    for index, weight in enumerate(weights[:-1]):
        if left <= 1e-12:
            point.append(0.5)
            continue
        share = min(1.0, weight / left)
        point.append(1.0 - (1.0 - share) ** (len(weights) - 1 - index))
        left -= weight
    return np.array(point)
