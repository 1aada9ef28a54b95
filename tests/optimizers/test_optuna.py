"""Optuna's samplers behind ask and tell: every one converges or at least beats chance, and keeps its categories."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Optimizer, Vector, create
from evomerge.optimizers.optuna import SAMPLERS
from tests.toys import cube

Loss = Callable[[Vector], float]
MIXED = (Coordinate("method", 3, ordered=False), Coordinate("take.a", 2), Coordinate("rank", 6), Coordinate("w"))
every_sampler = pytest.mark.parametrize("sampler", sorted(SAMPLERS))
# The Gaussian process fits a model for each point, which takes seconds; the fast suite has one test of it.
each_but_gp_fast = pytest.mark.parametrize(
    "sampler", [pytest.param(name, marks=pytest.mark.slow) if name == "gp" else name for name in sorted(SAMPLERS)]
)


def made(sampler: str, coordinates: tuple[Coordinate, ...], seed: int = 1, **rest: int) -> Optimizer:
    if sampler == "cma":
        pytest.importorskip("cmaes")
    return create("optuna", coordinates, [np.full(len(coordinates), 0.9)], seed, {"sampler": sampler, **rest})


def told(optimizer: Optimizer, generations: int, loss: Loss) -> list[list[float]]:
    found = []
    for _ in range(generations):
        vectors = optimizer.ask()
        optimizer.tell(vectors, [loss(vector) for vector in vectors])
        found += [vector.tolist() for vector in vectors]
    return found


def sphere(vector: Vector) -> float:
    return float(((vector - 0.3) ** 2).sum())


@each_but_gp_fast
def test_beats_the_first_generation(sampler: str) -> None:
    generations = 6 if sampler == "gp" else 12  # a Gaussian process needs few points, and much time for many
    found = [sphere(np.array(x)) for x in told(made(sampler, cube(4)), generations, sphere)]
    assert min(found) < 0.5 * min(found[1:8])


@every_sampler
def test_replays_exactly_with_failures_and_categories(sampler: str) -> None:
    def loss(vector: Vector) -> float:
        return math.inf if vector[3] > 0.8 else float(vector[0] + (vector[3] - 0.4) ** 2)

    whole = told(made(sampler, MIXED), 3, loss)
    again = made(sampler, MIXED)
    assert told(again, 2, loss) + told(again, 1, loss) == whole
    other = told(made(sampler, MIXED, seed=2), 2, loss)
    assert other != whole[: len(other)]


@each_but_gp_fast
def test_categories_and_whole_numbers_are_asked_at_the_middle_of_their_cells(sampler: str) -> None:
    found = np.array(told(made(sampler, MIXED), 4, sphere))
    for place, coordinate in enumerate(MIXED[:3]):
        cells = found[:, place] * coordinate.levels - 0.5
        assert cells == pytest.approx(np.round(cells)) and cells.min() >= 0 and cells.max() <= coordinate.levels - 1
    assert found[0].tolist() == pytest.approx([2.5 / 3, 0.75, 5.5 / 6, 0.9]), "the seed, in the cells that it is in"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_finds_the_category(sampler: str) -> None:
    def loss(vector: Vector) -> float:
        return (
            float(int(vector[0] * 3) != 1) + float(vector[1] > 0.5) + abs(int(vector[2] * 6) - 2) + abs(vector[3] - 0.3)
        )

    found = told(made(sampler, MIXED), 10, loss)
    assert min(loss(np.array(vector)) for vector in found) < 0.2


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "qmc"])
def test_several_objectives(sampler: str) -> None:
    optimizer = create("optuna", cube(3), [], 1, {"sampler": sampler}, objectives=2)
    for number in range(5):
        vectors = optimizer.ask()
        failed = (math.inf, math.inf)
        optimizer.tell(vectors, [failed if v[0] > 0.9 or not number else (float(v[0]), float(v[1])) for v in vectors])
    assert len(optimizer.ask()) == 8


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^optimizer\.sampler=tpa: give one of tpe, gp, cma"):
        create("optuna", cube(3), [], 1, {"sampler": "tpa"})
    with pytest.raises(
        ConfigError, match=r"^objective\.front: optimizer\.sampler=cma takes one objective; choose one of tpe"
    ):
        create("optuna", cube(3), [], 1, {"sampler": "cma"}, objectives=2)


def test_without_cmaes_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.optimizers.optuna.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'evomerge\[optuna\]'$"):
        create("optuna", cube(3), [], 1, {"sampler": "cma"})
