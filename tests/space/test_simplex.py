"""The simplex coding: a bijection that spreads evenly."""

import numpy as np
import pytest

from evomerge.space.simplex import from_cube, to_cube


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_is_a_bijection(n: int) -> None:
    generator = np.random.default_rng(n)
    for point in generator.uniform(0.001, 0.999, (200, n - 1)):
        weights = from_cube(point)
        assert weights.shape == (n,) and (weights >= 0).all() and weights.sum() == pytest.approx(1.0)
        assert to_cube(weights) == pytest.approx(point, abs=1e-9)
    for weights in generator.dirichlet(np.ones(n), 200):
        assert from_cube(to_cube(weights)) == pytest.approx(weights, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_uniform_points_become_uniform_points(n: int) -> None:
    draws = 20_000
    weights = np.array([from_cube(point) for point in np.random.default_rng(0).random((draws, n - 1))])
    # A uniform point of the simplex is Dirichlet(1, …, 1): mean 1/n, variance (n−1)/(n²(n+1)), Cov = −1/(n²(n+1)).
    variance = (n - 1) / (n**2 * (n + 1))
    assert weights.mean(axis=0) == pytest.approx(np.full(n, 1 / n), abs=5 * np.sqrt(variance / draws))
    wanted = np.full((n, n), -1 / (n**2 * (n + 1)))
    np.fill_diagonal(wanted, variance)
    assert np.cov(weights.T) == pytest.approx(wanted, abs=0.05 * variance)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_corners_and_centre_are_reached_exactly(n: int) -> None:
    for place in range(n):
        corner = np.eye(n)[place]
        assert from_cube(to_cube(corner)).tolist() == corner.tolist()
    assert from_cube(to_cube(np.full(n, 1 / n))) == pytest.approx(np.full(n, 1 / n), abs=1e-15)


@pytest.mark.parametrize("n", [2, 4])
def test_every_point_of_the_closed_cube_is_valid(n: int) -> None:
    for point in np.ndindex(*[3] * (n - 1)):
        weights = from_cube(np.array(point) / 2)
        assert (weights >= 0).all() and weights.sum() == pytest.approx(1.0)


def test_one_weight_needs_no_coordinate() -> None:
    assert from_cube(np.empty(0)).tolist() == [1.0]
    assert to_cube(np.ones(1)).shape == (0,)
