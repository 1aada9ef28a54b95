"""Fronts, volumes and knees against their definitions."""

import itertools
import math

import numpy as np
import pytest

from evomerge.searching.pareto import (
    Point,
    diverse_subset,
    dominates,
    hypervolume,
    knee,
    normalised_hypervolume,
    pareto_front,
)


def cloud(seed: int, count: int, objectives: int, steps: int = 12) -> list[Point]:
    """Points on a coarse grid, so that there are ties and equal points."""
    grid = np.random.default_rng(seed).integers(0, steps, (count, objectives)) / steps
    return [tuple(row) for row in grid.tolist()]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_the_definition(seed: int, objectives: int) -> None:
    points = cloud(seed, 40, objectives)
    free = [p for p in points if not any(all(b >= a for a, b in zip(p, q, strict=True)) and p != q for q in points)]
    found = pareto_front(points)
    assert found == sorted(found) and {points[i] for i in found} == set(free)
    assert found == [points.index(points[i]) for i in found], "of equal points the first, once"


def test_dominance_needs_a_difference() -> None:
    assert dominates((1.0, 2.0), (1.0, 1.0))
    assert not dominates((1.0, 1.0), (1.0, 1.0)) and not dominates((2.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_equals_inclusion_and_exclusion(objectives: int) -> None:
    """The union of the boxes by all their intersections, 2^n of them."""
    points, reference = cloud(objectives, 8, objectives), (0.2,) * objectives
    expected = 0.0
    for size in range(1, len(points) + 1):
        for some in itertools.combinations(points, size):
            sides = [max(0.0, min(column) - r) for column, r in zip(zip(*some, strict=True), reference, strict=True)]
            expected += (-1) ** (size + 1) * math.prod(sides)
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-9)


def test_hypervolume_equals_a_share_of_random_points() -> None:
    points = cloud(3, 30, 3, steps=1000)
    drawn = np.random.default_rng(0).random((200_000, 3))
    covered = np.zeros(len(drawn), dtype=bool)
    for point in points:
        covered |= (drawn <= point).all(axis=1)
    assert hypervolume(points, (0.0, 0.0, 0.0)) == pytest.approx(covered.mean(), abs=0.005)


def test_hypervolume_ignores_order_repetition_and_the_dominated() -> None:
    points = cloud(1, 20, 3)
    whole = hypervolume(points, (-1.0,) * 3)
    assert hypervolume(points[::-1], (-1.0,) * 3) == pytest.approx(whole)
    assert hypervolume([*points, *points], (-1.0,) * 3) == pytest.approx(whole)
    assert hypervolume([points[i] for i in pareto_front(points)], (-1.0,) * 3) == pytest.approx(whole)
    assert hypervolume(points, (2.0,) * 3) == hypervolume([], (0.0,) * 3) == 0.0


def test_the_knee_gives_up_least_of_any_objective() -> None:
    assert knee([(0.0, 10.0), (4.0, 9.0), (7.0, 8.0), (10.0, 0.0)]) == 2
    assert knee([(0.0, 1.0), (0.6, 0.6), (1.0, 0.0), (0.5, 0.5)]) == 1, "the dominated one is no knee"
    assert knee([(1.0, 0.3)]) == 0
    assert knee([(0.5, 0.2, 0.4), (0.5, 0.9, 0.4)]) == 1
    assert knee([(0.0, 1.0), (1.0, 0.0)]) in (0, 1)


def test_the_knee_does_not_depend_on_units_or_order() -> None:
    found = cloud(7, 30, 2)
    points = [found[i] for i in pareto_front(found)]
    best = points[knee(points)]
    scaled = [(3.0 * a - 7.0, 100.0 * b) for a, b in points]
    assert points[knee(scaled)] == best
    assert points[::-1][knee(points[::-1])] == best


def test_spreading_out_keeps_the_knee_and_the_ends() -> None:
    points = [(0.0, 1.0), (0.5, 0.55), (0.5001, 0.5499), (0.52, 0.53), (1.0, 0.0), (0.1, 0.1)]
    assert diverse_subset(points, 3) == [0, 3, 4] and knee(points) == 3
    assert diverse_subset(points, 1) == [3]
    assert diverse_subset(points, 99) == [0, 1, 2, 3, 4]
    assert diverse_subset([], 3) == []


def test_the_share_of_the_box_does_not_depend_on_units() -> None:
    points = cloud(5, 12, 3)
    best = [points[i] for i in pareto_front(points)]
    share = normalised_hypervolume(best, points)
    scaled = [[(100 * a - 3, b, 0.01 * c) for a, b, c in some] for some in (best, points)]
    assert normalised_hypervolume(*scaled) == pytest.approx(share) and 0 < share < 1
    assert normalised_hypervolume(points, points) == pytest.approx(share), "the dominated add nothing"
    assert normalised_hypervolume(best[:1], points) < share


def test_the_share_of_the_box_by_hand() -> None:
    assert normalised_hypervolume([(1.0, 1.0)], [(0.0, 0.0), (1.0, 1.0)]) == pytest.approx(1.0)
    assert normalised_hypervolume([(0.0, 1.0), (1.0, 0.0)], [(0.0, 1.0), (1.0, 0.0)]) == pytest.approx(
        (2 * 0.11 - 0.01) / 1.21
    )
    assert normalised_hypervolume([(0.5, 1.0)], [(0.0, 1.0), (1.0, 1.0)]) == pytest.approx(0.6 / 1.1), (
        "an objective of one value"
    )
    assert normalised_hypervolume([], [(0.0, 1.0)]) == 0.0
