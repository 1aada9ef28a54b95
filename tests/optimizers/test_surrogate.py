"""The model of the scores: what it believes of a smooth function that it sees through noise."""

import numpy as np
import pytest

from evomerge.optimizers import Surrogate, Vector

BEST = np.array([0.3, 0.8, 0.5])


def told(count: int, noise: float, seed: int = 0) -> Surrogate:
    draw = np.random.default_rng(seed)
    points = list(draw.random((count, len(BEST))))
    losses = [float(((x - BEST) ** 2).sum() + noise * draw.standard_normal()) for x in points]
    model = Surrogate()
    model.tell(points, losses)
    return model


def distance(point: Vector | None) -> float:
    assert point is not None and ((point >= 0) & (point <= 1)).all()
    return float(np.abs(point - BEST).max())


def test_its_best_point_is_nearer_than_any_it_was_told() -> None:
    points = np.random.default_rng(0).random((40, len(BEST)))
    assert distance(told(40, 0.0).best()) < 0.5 * np.abs(points - BEST).max(1).min()


@pytest.mark.parametrize("seed", range(5))
def test_noise_moves_it_less_than_the_luckiest_point(seed: int) -> None:
    assert distance(told(80, 0.1, seed).best()) < 0.25


def test_it_orders_points_as_the_function_does() -> None:
    points = np.random.default_rng(9).random((50, len(BEST)))
    true = ((points - BEST) ** 2).sum(1)
    assert np.corrcoef(told(40, 0.02).predict(list(points)), true)[0, 1] > 0.95


def test_the_same_scores_give_the_same_bits() -> None:
    first, second = told(30, 0.1).best(), told(30, 0.1).best()
    assert first is not None and second is not None and first.tobytes() == second.tobytes()


@pytest.mark.parametrize("losses", [[], [0.1, 0.2, 0.3], [0.5] * 8, [float("inf")] * 8])
def test_too_little_is_no_model(losses: list[float]) -> None:
    model = Surrogate()
    model.tell(list(np.random.default_rng(0).random((len(losses), 2))), losses)
    assert model.best() is None
    assert not model.predict([np.array([0.1, 0.1]), np.array([0.9, 0.9])]).any()
