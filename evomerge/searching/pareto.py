"""Pareto fronts of several objectives: non-dominated points, hypervolume, knee point and a diverse subset.

Points are tuples of scores, one per objective; higher is better.
"""

import math
from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is at least as good as `other` in every objective and better in one."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def pareto_front(points: Sequence[Point]) -> list[int]:
    """The indices of the non-dominated points, in order; of equal points only the first."""
    found: list[int] = []
    # A dominating point has a larger sum, so in this order each point needs comparing with the front so far only.
    for place in sorted(range(len(points)), key=lambda i: (-math.fsum(points[i]), i)):
        point = points[place]
        if not any(points[other] == point or dominates(points[other], point) for other in found):
            found.append(place)
    return sorted(found)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The hypervolume dominated by the points, above the reference point (While et al. 2012, WFG, without its sorting).

    Points that are not better than the reference in every objective add nothing.
    """
    inside = [point for point in points if all(a > r for a, r in zip(point, reference, strict=True))]
    total = 0.0
    for place, point in enumerate(inside):
        box = math.prod(a - r for a, r in zip(point, reference, strict=True))
        limited = [tuple(map(min, other, point)) for other in inside[place + 1 :]]
        total += box - hypervolume([limited[i] for i in pareto_front(limited)], reference)
    return total


def normalised_hypervolume(points: Sequence[Point], all_points: Sequence[Point]) -> float:
    """The hypervolume of some points as a share, 0 to 1, of the bounding box of all points.

    The box is extended below by a tenth of each range, so that the extreme points of a front have a volume as well.
    """
    bounds = _bounds(all_points)
    return hypervolume([_scaled(point, bounds) for point in points], (-0.1,) * len(bounds)) / 1.1 ** len(bounds)


def diverse_subset(points: Sequence[Point], count: int) -> list[int]:
    """The indices of at most `count` points of the front: the knee, then repeatedly the point farthest from the chosen.

    This is farthest-point selection (Gonzalez 1985) with the Chebyshev distance in units of the front's ranges.
    """
    places = pareto_front(points)
    bounds = _bounds([points[i] for i in places])
    scaled = {i: _scaled(points[i], bounds) for i in places}
    chosen = [knee(points)] if points else []
    while len(chosen) < min(count, len(places)):
        chosen.append(max(scaled, key=lambda i: min(_distance(scaled[i], scaled[j]) for j in chosen)))
    return sorted(chosen)


def knee(points: Sequence[Point]) -> int:
    """The index of the front's point with the smallest Chebyshev distance to the ideal point, in units of its ranges.

    This is the compromise solution of Zeleny (1973). Among equal points the one with the larger sum is taken.
    """
    places = pareto_front(points)
    bounds = _bounds([points[i] for i in places])

    def order(place: int) -> tuple[float, float, Point]:
        scaled = _scaled(points[place], bounds)
        return round(min(scaled), 12), round(math.fsum(scaled), 12), points[place]

    return max(places, key=order)


def _distance(one: Point, other: Point) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _bounds(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(min(column), max(column)) for column in zip(*points, strict=True)]


def _scaled(point: Point, bounds: Sequence[tuple[float, float]]) -> Point:
    """Each objective scaled from 0 at its lower bound to 1 at its upper bound; 1 if the bounds are equal."""
    pairs = zip(point, bounds, strict=True)
    return tuple((a - low) / (high - low) if high > low else 1.0 for a, (low, high) in pairs)
