"""The sensitivity of a winner: the points around it, and the result for optima of known shape."""

from pathlib import Path

import numpy as np
import pytest

from evomerge.finalise.sensitivity import Sensitivity, measure_sensitivity, points_around
from evomerge.searching.stages import Candidate
from evomerge.workers.jobs import Job
from tests.toys import Run, ToyPool, toy_space, weights

CENTRE = np.array([0.5, 0.2])


@pytest.mark.parametrize("dimensions", [1, 2, 30])
@pytest.mark.parametrize("radius", [0.01, 0.1])
def test_points_are_at_the_radius_and_in_opposite_pairs(dimensions: int, radius: float) -> None:
    centre = np.full(dimensions, 0.5)
    points = points_around(centre, 8, radius, seed=1)
    steps = [point - centre for point in points]
    assert [np.sqrt((step**2).mean()) for step in steps] == pytest.approx([radius] * 8)
    assert all(np.allclose(a, -b) for a, b in zip(steps[::2], steps[1::2], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(points, points_around(centre, 8, radius, seed=1), strict=True))


def test_points_around_a_corner_stay_in_the_cube_at_its_radius() -> None:
    for point in points_around(np.array([0.0, 1.0, 0.0]), 20, 0.1, seed=2):
        assert ((point >= 0) & (point <= 1)).all()
        assert np.sqrt(((point - [0.0, 1.0, 0.0]) ** 2).mean()) == pytest.approx(0.1)
    assert all(((p >= 0) & (p <= 1)).all() for p in points_around(np.full(3, 0.5), 20, 0.99, seed=2))


def measured(path: Path, pool: ToyPool, vector: np.ndarray | None = CENTRE, count: int = 6) -> Sensitivity | None:
    run, space = Run(path, pool), toy_space()
    winner = Candidate.of("winner", space.decode(CENTRE), vector)
    run.evaluator.evaluate([winner], "select")
    found = measure_sensitivity(run.evaluator, winner, space.decode, count, 0.05, seed=3)
    assert {job.chunk.partition("/")[0] for job in run.pool.jobs} == {"select"}
    run.ledger.close()
    return found


def bowl(steepness: float) -> ToyPool:
    best = weights(toy_space().decode(CENTRE))

    def answers(job: Job) -> list[float]:
        away = sum((float(w) - b) ** 2 for w, b in zip(weights(job.recipe), best, strict=True))
        return [1.0 - steepness * away + 0.01 * i for i in range(3)]

    return ToyPool(answers=answers)


def test_a_plateau_is_flat_and_a_peak_is_not(tmp_path: Path) -> None:
    flat, peak = measured(tmp_path / "flat.jsonl", bowl(0.0)), measured(tmp_path / "peak.jsonl", bowl(10.0))
    assert flat is not None and flat.flat and flat.worst == flat.best == 0.0
    assert peak is not None and not peak.flat and peak.worst <= peak.interval.difference <= peak.best < 0
    assert (peak.points, peak.radius) == (6, 0.05)


def test_on_a_slope_the_pairs_cancel(tmp_path: Path) -> None:
    slope = ToyPool(answers=lambda job: [float(weights(job.recipe)[0])] * 3)
    found = measured(tmp_path / "slope.jsonl", slope)
    assert found is not None and found.worst == pytest.approx(-found.best, abs=1e-5)
    assert found.interval.difference == pytest.approx(0.0, abs=1e-5)


def test_failed_points_are_left_out_and_no_point_is_no_answer(tmp_path: Path) -> None:
    keys = [toy_space().decode(point).key() for point in points_around(CENTRE, 6, 0.05, seed=3)]
    some = ToyPool(fails=lambda job: "died" if job.key in keys[:2] else None)
    found = measured(tmp_path / "some.jsonl", some)
    assert found is not None and found.points == 4
    assert measured(tmp_path / "all.jsonl", ToyPool(fails=lambda job: "died" if job.key in keys else None)) is None
    assert measured(tmp_path / "baseline.jsonl", ToyPool(), vector=None) is None
    assert measured(tmp_path / "off.jsonl", ToyPool(), count=0) is None
