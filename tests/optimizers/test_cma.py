"""CMA-ES: convergence, and that seeds help and never hurt."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Optimizer, Surrogate, Vector, create
from evomerge.optimizers._restarts import Restarts
from tests.toys import cube

PLAIN = {"screen": 1}  # the strategy by itself


def best(optimizer: Optimizer, generations: int, target: Vector, scale: Vector | float = 1.0) -> float:
    def loss(vector: Vector) -> float:
        return float((scale * (vector - target) ** 2).sum())

    surrogate = Surrogate()
    return min(loss(vector) for _ in range(generations) for vector in asked_and_told(optimizer, loss, surrogate))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_solves_a_sphere(seed: int) -> None:
    assert best(create("cma", cube(6), [], seed, {}), 150, np.full(6, 0.3)) < 1e-4


def test_learns_scales() -> None:
    assert best(create("cma", cube(6), [], 1, PLAIN), 250, np.full(6, 0.3), 10.0 ** np.arange(6)) < 1e-3


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_reaches_optima_on_the_edge(corner: float) -> None:
    assert best(create("cma", cube(4), [], 1, {}), 150, np.full(4, corner)) < 1e-4


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("count", [3, 8, 20])
def test_converges_after_many_seeds_too(count: int) -> None:
    seeds = [np.zeros(6), np.ones(6), *np.random.default_rng(0).random((count, 6))][:count]
    assert best(create("cma", cube(6), seeds, 1, {}), 150, np.full(6, 0.3)) < 1e-4


@pytest.mark.parametrize("dimensions", [1, 2])
def test_few_dimensions(dimensions: int) -> None:
    assert best(create("cma", cube(dimensions), [], 1, {}), 80, np.full(dimensions, 0.3)) < 1e-4


def test_population_follows_the_dimensions() -> None:
    assert len(create("cma", cube(6), [], 1, {}).ask()) == 4 + int(1.5 * np.log(6))
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


def rotated(dimensions: int) -> Callable[[Vector], float]:
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((dimensions, dimensions)))[0]
    scales = 10.0 ** np.linspace(0, 2, dimensions)
    return lambda vector: float((scales * (turn @ (vector - 0.4)) ** 2).sum())


def spent(optimizer: Optimizer, evaluations: int, loss: Callable[[Vector], float]) -> list[float]:
    losses: list[float] = []
    surrogate = Surrogate()
    while len(losses) < evaluations:
        losses += [loss(vector) for vector in asked_and_told(optimizer, loss, surrogate)]
    return losses[:evaluations]


@pytest.mark.parametrize("covariance", ["full", "auto"])
def test_learns_a_rotated_ellipsoid(covariance: str) -> None:
    assert min(spent(create("cma", cube(8), [], 1, {"covariance": covariance, **PLAIN}), 2000, rotated(8))) < 1e-6


@pytest.mark.sampled(1)
@pytest.mark.parametrize("covariance", ["diagonal", "vd", "auto"])
def test_many_dimensions_learn_faster_by_their_diagonal(covariance: str) -> None:
    scales = 10.0 ** np.linspace(0, 2, 60)

    def loss(vector: Vector) -> float:
        return float((scales * (vector - 0.4) ** 2).sum())

    found = [
        min(spent(create("cma", cube(60), [], 1, {"covariance": c, **PLAIN}), 3000, loss)) for c in (covariance, "full")
    ]
    assert found[0] < 0.7 * found[1]


@pytest.mark.parametrize("kind", ["ipop", "bipop"])
def test_restarts_leave_a_wide_local_optimum(kind: str) -> None:
    def loss(vector: Vector) -> float:
        return min(((vector - 0.2) ** 2).sum() + 0.05, ((vector - 0.85) ** 2).sum())

    start = [np.full(4, 0.2)]
    settings = {"sigma": 0.05, "tolerance": 0.01, "restarts": kind, **PLAIN}
    assert min(spent(create("cma", cube(4), start, 1, {**settings, "restarts": "none"}), 3000, loss)) > 0.04
    optimizer = create("cma", cube(4), start, 1, settings)
    assert min(spent(optimizer, 3000, loss)) < 1e-3
    assert optimizer.centre() == pytest.approx(np.full(4, 0.85), abs=0.05), "the centre of the best run"


def test_ipop_doubles_and_bipop_has_small_runs_between() -> None:
    def plan(kind: str) -> Restarts:
        return Restarts(kind, 6, 0.2, 4, np.random.default_rng(1))

    ipop, bipop = plan("ipop"), plan("bipop")
    assert [ipop.next(100) for _ in range(3)] == [(12, 0.2), (24, 0.2), (48, 0.2)]
    runs = [bipop.next(count) for count in (100, 400, 60, 60, 300)]
    assert runs[0] == (12, 0.2), "the first restart is large, the next is small while small ones have spent less"
    assert all(population % 4 == 0 and 6 <= population <= 12 and sigma < 0.2 for population, sigma in runs[1:4])
    assert runs[4] == (24, 0.2)
    assert plan("bipop").limit() == np.inf and bipop.limit() == np.inf


def test_populations_are_rounded_up_to_the_workers() -> None:
    sizes = [len(create("cma", cube(6), [], 1, {"population": 9, "multiple_of": k}).ask()) for k in (1, 2, 4, 8, 16)]
    assert sizes == [9, 10, 12, 16, 16]


@pytest.mark.parametrize("levels", [2, 5])
def test_a_plateau_is_left_from_anywhere(levels: int) -> None:
    """The margin: however small the steps have become, no category is lost."""
    coordinates = (Coordinate("kind", levels), *cube(4))

    def loss(vector: Vector) -> float:
        return float(((vector[1:] - 0.3) ** 2).sum())

    optimizer = create("cma", coordinates, [np.full(5, 0.999)], 1, {"population": 10, **PLAIN})
    spent(optimizer, 1500, loss)
    cells = {int(min(v[0], 0.999) * levels) for _ in range(60) for v in asked_and_told(optimizer, loss)}
    assert len(cells) > 1


def asked_and_told(
    optimizer: Optimizer, loss: Callable[[Vector], float], surrogate: Surrogate | None = None
) -> list[Vector]:
    vectors = optimizer.ask(surrogate)
    losses = [loss(vector) for vector in vectors]
    if surrogate:
        surrogate.tell(vectors, losses)
    optimizer.tell(vectors, losses)
    return vectors


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_finds_the_category_beside_the_numbers(seed: int) -> None:
    """Two switches and a choice of four, of which only one setting lets the numbers pay."""
    coordinates = (Coordinate("a", 2), Coordinate("b", 2), Coordinate("kind", 4, ordered=False), *cube(3))

    def loss(vector: Vector) -> float:
        wrong = int(vector[0] * 2 < 1) + int(vector[1] * 2 >= 1) + int(int(min(vector[2], 0.999) * 4) != 2)
        return wrong + float(((vector[3:] - 0.3) ** 2).sum())

    start = [np.array([0.25, 0.75, 0.125, 0.9, 0.9, 0.9])]
    assert min(spent(create("cma", coordinates, start, seed, {}), 600, loss)) < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariance": "ful"}, r"^optimizer\.covariance=ful: give one of auto, full"),
        ({"covariance": "vd"}, r"^optimizer\.covariance=vd: for 10 dimensions or more, the space has 3$"),
        ({"restarts": "pop"}, r"^optimizer\.restarts=pop: give one of none, ipop, bipop"),
        ({"multiple_of": 0}, r"^optimizer\.multiple_of=0"),
        ({"tolerance": 0.5}, r"^optimizer\.tolerance=0\.5: give a step below sigma"),
        ({"screen": 0}, r"^optimizer\.screen=0"),
    ],
    ids=lambda case: "",
)
def test_more_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("cma", cube(3), [], 1, settings)


def test_a_screen_needs_fewer_evaluations() -> None:
    def loss(vector: Vector) -> float:
        return round(float(((vector - [0.2, 0.8, 0.3, 0.6, 0.1, 0.7]) ** 2).sum()), 2)  # as coarse as an accuracy

    best = {k: [min(spent(create("cma", cube(6), [], s, {"screen": k}), 48, loss)) for s in range(8)] for k in (1, 4)}
    assert np.mean(best[4]) < 0.5 * np.mean(best[1])


def test_without_a_surrogate_nothing_is_screened() -> None:
    def loss(vector: Vector) -> float:
        return float(vector.sum())

    plain, given, unused = create("cma", cube(3), [], 1, {}), create("cma", cube(3), [], 1, PLAIN), Surrogate()
    for _ in range(5):
        assert np.array_equal(asked_and_told(plain, loss), asked_and_told(given, loss, unused))


@pytest.mark.parametrize("settings", [{}, PLAIN, {"covariance": "vd"}, {"restarts": "ipop"}], ids=str)
@pytest.mark.parametrize("dimensions", [300, 1000, 2000])
def test_many_dimensions_are_searched_in_silence(
    dimensions: int, settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """A warning would fail the test: cma has one for a step-size rule that needs its points kept in pairs."""

    def loss(vector: Vector) -> float:
        return float(((vector - 0.3) ** 2).sum())

    optimizer, surrogate = create("cma", cube(dimensions), [np.full(dimensions, 0.4)], 1, settings), Surrogate()
    for _ in range(8):
        asked_and_told(optimizer, loss, surrogate)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("covariance", ["full", "diagonal", "vd"])
def test_every_covariance_draws_from_its_own_seed(covariance: str) -> None:
    def asked(seed: int) -> list[Vector]:
        np.random.seed(seed)  # of whoever else draws from the global stream
        optimizer, surrogate = create("cma", cube(12), [], 1, {"covariance": covariance}), Surrogate()
        return [v for _ in range(3) for v in asked_and_told(optimizer, lambda vector: float(vector.sum()), surrogate)]

    before = np.random.get_state()
    try:
        assert np.array_equal(asked(1), asked(2))
    finally:
        np.random.set_state(before)
