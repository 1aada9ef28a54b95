"""CMA-ES: convergence, and that seeds help and never hurt."""

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers import Optimizer, Vector, create, cube


def best(optimizer: Optimizer, generations: int, target: Vector, scale: Vector | float = 1.0) -> float:
    found = np.inf
    for _ in range(generations):
        vectors = optimizer.ask()
        losses = [float((scale * (vector - target) ** 2).sum()) for vector in vectors]
        optimizer.tell(vectors, losses)
        found = min(found, *losses)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_solves_a_sphere(seed: int) -> None:
    assert best(create("cma", cube(6), [], seed, {}), 150, np.full(6, 0.3)) < 1e-4


def test_learns_scales() -> None:
    assert best(create("cma", cube(6), [], 1, {}), 250, np.full(6, 0.3), 10.0 ** np.arange(6)) < 1e-3


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_reaches_optima_on_the_edge(corner: float) -> None:
    assert best(create("cma", cube(4), [], 1, {}), 150, np.full(4, corner)) < 1e-4


@pytest.mark.parametrize("count", [3, 8, 20])
def test_converges_after_many_seeds_too(count: int) -> None:
    seeds = [np.zeros(6), np.ones(6), *np.random.default_rng(0).random((count, 6))][:count]
    assert best(create("cma", cube(6), seeds, 1, {}), 150, np.full(6, 0.3)) < 1e-4


@pytest.mark.parametrize("dimensions", [1, 2])
def test_few_dimensions(dimensions: int) -> None:
    assert best(create("cma", cube(dimensions), [], 1, {}), 80, np.full(dimensions, 0.3)) < 1e-4


def test_population_follows_the_dimensions() -> None:
    assert len(create("cma", cube(6), [], 1, {}).ask()) == 4 + int(3 * np.log(6))
    assert len(create("cma", cube(6), [], 1, {"population": 21}).ask()) == 21


@pytest.mark.parametrize(
    ("settings", "key"), [({"population": 3}, "population"), ({"sigma": 0.0}, "sigma"), ({"sigma": 2.0}, "sigma")]
)
def test_impossible_settings_are_refused(settings: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^optimizer\.{key}="):
        create("cma", cube(3), [], 1, settings)


def test_a_generation_is_told_whole() -> None:
    optimizer = create("cma", cube(3), [], 1, {})
    vectors = optimizer.ask()
    with pytest.raises(ValueError, match="told"):
        optimizer.tell(vectors[1:], [0.0] * (len(vectors) - 1))


def test_begins_at_the_best_seed() -> None:
    seeds = [np.full(3, 0.1), np.full(3, 0.7), np.full(3, 0.4)]
    optimizer = create("cma", cube(3), seeds, 1, {"sigma": 0.02})
    assert [point.tolist() for point in optimizer.ask()] == [seed.tolist() for seed in seeds]
    optimizer.tell(seeds, [np.inf, 1.0, 2.0])
    assert np.abs(np.array(optimizer.ask()) - 0.7).max() < 0.1


def test_generations_of_failures_teach_nothing() -> None:
    optimizer = create("cma", cube(3), [], 1, {"population": 10})
    for _ in range(60):
        vectors = np.array(optimizer.ask())
        optimizer.tell(list(vectors), [np.inf] * len(vectors))
    later = np.concatenate([optimizer.ask() for _ in range(30)])
    assert later.mean(axis=0) == pytest.approx(np.full(3, 0.5), abs=0.07)
    assert later.std(axis=0) == pytest.approx(np.full(3, 0.2), abs=0.05)
