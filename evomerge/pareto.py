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


def spread_out(points: Sequence[Point], count: int) -> list[int]:
    """The places of at most `count` points of the front: its knee, then always the farthest from those chosen.

    Distances are those of the objective that differs most, in units of the front's range (Gonzalez 1985).
    """
    places = front(points)
    scaled = dict(zip(places, _scaled([points[i] for i in places]), strict=True))
    chosen = [knee(points)] if points else []
    while len(chosen) < min(count, len(places)):
        chosen.append(max(scaled, key=lambda i: min(_distance(scaled[i], scaled[j]) for j in chosen)))
    return sorted(chosen)


def knee(points: Sequence[Point]) -> int:
    """The place of the point whose worst objective gives up least of the front's range; of equal ones the larger sum.

    The Chebyshev distance to the ideal point (compromise programming, Zeleny 1973), over the front alone.
    """
    places = front(points)
    scaled = _scaled([points[i] for i in places])
    order = [(round(min(row), 12), round(math.fsum(row), 12), points[i]) for i, row in zip(places, scaled, strict=True)]
    return places[order.index(max(order))]


def _distance(one: Point, other: Point) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _scaled(points: Sequence[Point]) -> list[Point]:
    """Every objective from 0, the worst of the points, to 1, the best; 1 for all where they are equal."""
    spans = [(min(column), max(column)) for column in zip(*points, strict=True)]
    return [
        tuple((a - low) / (high - low) if high > low else 1.0 for a, (low, high) in zip(point, spans, strict=True))
        for point in points
    ]
