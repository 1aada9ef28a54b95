"""The grid: every neighbour is tried before a step is halved, nothing twice, and it ends."""

import math

import numpy as np

from evomerge.optimizers import Coordinate, Optimizer, Vector, create
from tests.toys import cube


def until_the_end(optimizer: Optimizer, target: Vector) -> list[list[float]]:
    tried: list[list[float]] = []
    while vectors := optimizer.ask():
        optimizer.tell(vectors, [float(np.abs(vector - target).sum()) for vector in vectors])
        tried += [vector.tolist() for vector in vectors]
    return tried


def test_comes_within_its_finest_step_and_ends() -> None:
    target = np.array([0.31, 0.77])
    tried = until_the_end(create("grid", cube(2), [np.array([0.9, 0.1])], 1, {"finest": 0.01}), target)
    best = min(tried, key=lambda point: float(np.abs(np.array(point) - target).sum()))
    assert np.abs(np.array(best) - target).max() <= 0.01
    assert len({tuple(point) for point in tried}) == len(tried) < 80


def test_tries_a_whole_line_of_one_gene() -> None:
    tried = until_the_end(create("grid", cube(1), [np.array([0.5])], 1, {"finest": 0.25}), np.array([0.5]))
    assert sorted(tried) == [[0.25], [0.5], [0.75]]


def test_the_seed_orders_the_axes_and_decides_nothing_else() -> None:
    first, other = (until_the_end(create("grid", cube(3), [], seed, {}), np.full(3, 0.4)) for seed in (1, 2))
    assert (
        first[1:3] != other[1:3] and min(first) != [] and {tuple(p) for p in first[:7]} == {tuple(p) for p in other[:7]}
    )


def test_categories_are_all_neighbours_and_whole_numbers_the_next() -> None:
    coordinates = (Coordinate("kind", 4, ordered=False), Coordinate("rank", 4))
    start = np.array([0.125, 0.125])
    optimizer = create("grid", coordinates, [start], 1, {"population": 4})
    optimizer.tell(optimizer.ask(), [0.0])
    asked = sorted(vector.tolist() for vector in optimizer.ask())
    assert asked == [[0.125, 0.375], [0.375, 0.125], [0.625, 0.125], [0.875, 0.125]]


def test_failures_move_it_nowhere() -> None:
    optimizer = create("grid", cube(2), [np.array([0.5, 0.5])], 1, {})
    while vectors := optimizer.ask():
        optimizer.tell(vectors, [math.inf] * len(vectors))
    assert optimizer.ask() == []
