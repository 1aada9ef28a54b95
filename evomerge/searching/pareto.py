"""Several objectives at once: who is dominated by nobody, how much the front covers, and where it bends.

Points are tuples of scores, higher is better in each.
"""

import math
from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Whether a point is nowhere worse and somewhere better."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def front(points: Sequence[Point]) -> list[int]:
    """The places of the points that none dominates, in order; of equal points the first."""
    found: list[int] = []
    # Whatever dominates a point has a larger sum, so only the front so far has to be asked.
    for place in sorted(range(len(points)), key=lambda i: (-math.fsum(points[i]), i)):
        point = points[place]
        if not any(points[other] == point or dominates(points[other], point) for other in found):
            found.append(place)
    return sorted(found)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between the reference and what the points dominate (While et al. 2012, WFG, without its sorting).

    Points that are not better than the reference in every objective add nothing.
    """
    inside = [point for point in points if all(a > r for a, r in zip(point, reference, strict=True))]
    total = 0.0
    for place, point in enumerate(inside):
        own = math.prod(a - r for a, r in zip(point, reference, strict=True))
        rest = [tuple(map(min, other, point)) for other in inside[place + 1 :]]
        total += own - hypervolume([rest[i] for i in front(rest)], reference)
    return total


def share_of_box(points: Sequence[Point], everybody: Sequence[Point]) -> float:
    """How much of the box of everybody's scores some of them dominate, 0 … 1.

    The hypervolume in units of the ranges; the box begins a tenth below the worst, so that the ends of a front count.
    """
    bounds = _bounds(everybody)
    return hypervolume([_scaled(point, bounds) for point in points], (-0.1,) * len(bounds)) / 1.1 ** len(bounds)


def spread_out(points: Sequence[Point], count: int) -> list[int]:
    """The places of at most `count` points of the front: its knee, then always the farthest from those chosen.

    Distances are those of the objective that differs most, in units of the front's range (Gonzalez 1985).
    """
    places = front(points)
    bounds = _bounds([points[i] for i in places])
    scaled = {i: _scaled(points[i], bounds) for i in places}
    chosen = [knee(points)] if points else []
    while len(chosen) < min(count, len(places)):
        chosen.append(max(scaled, key=lambda i: min(_distance(scaled[i], scaled[j]) for j in chosen)))
    return sorted(chosen)


def knee(points: Sequence[Point]) -> int:
    """The place of the point whose worst objective gives up least of the front's range; of equal ones the larger sum.

    The Chebyshev distance to the ideal point (compromise programming, Zeleny 1973), over the front alone.
    """
    places = front(points)
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
    """Every objective from 0, the lower bound, to 1, the upper; 1 where they are equal."""
    pairs = zip(point, bounds, strict=True)
    return tuple((a - low) / (high - low) if high > low else 1.0 for a, (low, high) in pairs)
