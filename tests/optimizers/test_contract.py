"""What every optimizer must do; each file of evomerge/optimizers is a case by being there."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers import Optimizer, Surrogate, Vector, create
from tests.toys import ASKING, cube

Loss = Callable[[Vector], float]
every_optimizer = pytest.mark.parametrize("name", ASKING)
POPULATION = {"population": 6}


def sphere(vector: Vector) -> float:
    return float(((vector - 0.3) ** 2).sum())


def generations(
    optimizer: Optimizer, count: int, loss: Loss = sphere, surrogate: Surrogate | None = None
) -> list[list[Vector]]:
    """Asks and tells `count` times, with a surrogate model of the losses as in a search."""
    surrogate, found = surrogate or Surrogate(), []
    for _ in range(count):
        vectors = optimizer.ask(surrogate)
        found.append([vector.copy() for vector in vectors])
        losses = [loss(vector) for vector in vectors]
        surrogate.tell(vectors, losses)
        optimizer.tell(vectors, losses)
    return found


def flat(found: Sequence[Sequence[Vector]]) -> list[list[float]]:
    return [vector.tolist() for generation in found for vector in generation]


def seeds(count: int, dimensions: int) -> list[Vector]:
    """Corners first: the base and single experts lie on the faces of the cube."""
    corners = [np.zeros(dimensions), np.ones(dimensions)]
    return [*corners, *np.random.default_rng(9).random((count, dimensions))][:count]


@every_optimizer
@pytest.mark.parametrize("dimensions", [1, 2, 3, 40])
def test_asks_for_points_of_the_cube(name: str, dimensions: int) -> None:
    found = generations(create(name, cube(dimensions), seeds(2, dimensions), 1, {}), 12)
    assert all(found[:6])  # one that ends has nothing left to try
    for generation in found:
        for vector in generation:
            assert vector.shape == (dimensions,) and vector.dtype == np.float64
            assert (vector >= 0).all() and (vector <= 1).all()


@every_optimizer
@pytest.mark.parametrize("at", ["corner", "outside"])
def test_stays_in_the_cube_where_the_optimum_is_on_its_edge(name: str, at: str) -> None:
    target = 1.0 if at == "corner" else 3.0
    found = generations(create(name, cube(3), [], 1, {}), 40, lambda x: float(((x - target) ** 2).sum()))
    values = np.array(flat(found))
    assert values.min() >= 0 and values.max() <= 1


@every_optimizer
def test_a_seed_decides_everything(name: str) -> None:
    one, same, other = (flat(generations(create(name, cube(4), [], seed, {}), 6)) for seed in (1, 1, 2))
    assert one == same and one != other


@every_optimizer
@pytest.mark.parametrize("broken", [False, True])
def test_resumes_from_its_seed_and_the_same_losses(name: str, broken: bool) -> None:
    def loss(vector: Vector) -> float:
        return math.inf if broken and vector[0] > 0.6 else sphere(vector)

    whole = flat(generations(create(name, cube(4), seeds(3, 4), 1, POPULATION), 14, loss))
    again, surrogate = create(name, cube(4), seeds(3, 4), 1, POPULATION), Surrogate()
    first = flat(generations(again, 8, loss, surrogate))
    assert first + flat(generations(again, 6, loss, surrogate)) == whole


@every_optimizer
def test_numpys_global_stream_is_neither_read_nor_moved(name: str) -> None:
    quiet = flat(generations(create(name, cube(4), [], 1, {}), 6))
    np.random.seed(0)
    optimizer, surrogate = create(name, cube(4), [], 1, {}), Surrogate()
    disturbed: list[list[float]] = []
    for _ in range(6):
        before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
        disturbed += flat(generations(optimizer, 1, surrogate=surrogate))
        assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]
        np.random.random(1000)
    assert disturbed == quiet


@every_optimizer
@pytest.mark.parametrize(
    "loss",
    [
        lambda x: math.inf,
        lambda x: 0.5,
        lambda x: math.inf if x[0] > 0.4 else 0.5,
        lambda x: math.inf if x[0] < 0.9 else 1,
    ],
    ids=["all fail", "all equal", "some fail", "most fail"],
)
def test_survives_failures_and_plateaus(name: str, loss: Loss) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = generations(create(name, cube(3), seeds(4, 3), 1, {}), 50, loss)
    values = np.array(flat(found))
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
    assert len({tuple(row) for row in values.tolist()}) > 0.9 * len(values), "it must not stop exploring"


@every_optimizer
def test_learns_the_same_from_a_failure_whatever_else_is_said(name: str) -> None:
    """A generation of failures must not poison the next one."""
    optimizer = create(name, cube(3), [], 1, POPULATION)
    generations(optimizer, 3, lambda x: math.inf)
    later = generations(optimizer, 30)
    assert min(sphere(vector) for generation in later for vector in generation) < 0.05


@every_optimizer
@pytest.mark.parametrize("count", [1, 5, 6, 7, 15])
@pytest.mark.parametrize("dimensions", [1, 5])
def test_seeds_come_first_in_order_and_exactly(name: str, count: int, dimensions: int) -> None:
    points = seeds(count, dimensions)
    copies = [point.tolist() for point in points]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = generations(create(name, cube(dimensions), points, 1, POPULATION), 4)
    tried = flat(found)
    places = [tried.index(point) for point in copies]
    assert places == list(range(count)), "nothing else is tried before them"
    assert [point.tolist() for point in points] == copies
    assert all(0 < len(generation) <= max(6, count) for generation in found)


@every_optimizer
def test_is_quiet(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    generations(create(name, cube(3), seeds(9, 3), 1, {}), 5, lambda x: math.inf if x[0] > 0.5 else sphere(x))
    assert capfd.readouterr() == ("", "")


@every_optimizer
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"popluation": 8}, r"^optimizer\.popluation.*did you mean 'population'\?"),
        ({"population": 0}, r"^optimizer\.population=0"),
        ({"population": "many"}, r"^optimizer\.population=many"),
    ],
    ids=["unknown", "range", "type"],
)
def test_bad_settings_are_refused_by_their_key(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        create(name, cube(3), [], 1, settings)
    assert "\n" not in str(error.value)


def test_a_misspelt_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^optimizer 'cmaa' is not known \(did you mean 'cma'\?\); choose one of"):
        create("cmaa", cube(3), [], 1, {})


@every_optimizer
def test_finds_better_points_than_its_first(name: str) -> None:
    found = generations(create(name, cube(6), [], 1, {"population": 8}), 40)
    first = min(map(sphere, found[0]))
    assert min(sphere(vector) for generation in found for vector in generation) < 0.5 * first


@every_optimizer
def test_the_centre_is_a_point_of_the_cube_or_none(name: str) -> None:
    optimizer = create(name, cube(3), [], 1, {})
    generations(optimizer, 40, lambda x: float(((x - [0.3, 0.7, 1.4]) ** 2).sum()))
    centre = optimizer.centre()
    if centre is not None:
        assert centre.shape == (3,) and (centre >= 0).all() and (centre <= 1).all()
        assert centre == pytest.approx([0.3, 0.7, 1.0], abs=0.1)


@every_optimizer
@pytest.mark.parametrize("dimensions", [1, 5])
def test_the_centre_is_known_before_anything_was_told(name: str, dimensions: int) -> None:
    centre = create(name, cube(dimensions), seeds(1, dimensions), 1, {}).centre()
    assert centre is None or centre.shape == (dimensions,)
