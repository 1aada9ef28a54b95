"""The paired bootstrap against an explicit one, and the promise of its level."""

import numpy as np
import pytest

from evomerge.statistics import Interval, paired_bootstrap

WEIGHTS = {"a": 1.0, "b": 1.0}


def task_of(item: str) -> str:
    return item.partition(":")[0]


def scores(task: str, values: np.ndarray | list[float]) -> dict[str, float]:
    return {f"{task}:{i}": float(value) for i, value in enumerate(values)}


def pair(seed: int, sizes: tuple[int, int] = (40, 25), shift: float = 0.1) -> tuple[dict[str, float], dict[str, float]]:
    generator = np.random.default_rng(seed)
    first, second = {}, {}
    for task, size in zip("ab", sizes, strict=True):
        first |= scores(task, (generator.random(size) < 0.5 + shift).astype(float))
        second |= scores(task, (generator.random(size) < 0.5).astype(float))
    return first, second


def test_the_observed_difference_weighs_tasks_not_items() -> None:
    first = scores("a", [1, 1, 1, 1]) | scores("b", [0, 1])
    second = scores("a", [0, 0, 1, 1]) | scores("b", [1, 1])
    found = paired_bootstrap(first, second, {"a": 1.0, "b": 3.0, "unused": 9.0}, task_of)
    assert found.difference == pytest.approx((1 * 0.5 + 3 * -0.5) / 4)
    assert found.level == 0.95


@pytest.mark.parametrize("weights", [WEIGHTS, {"a": 2.0, "b": 0.5}], ids=str)
def test_equals_an_explicit_resampling(weights: dict[str, float]) -> None:
    first, second = pair(0)
    generator = np.random.default_rng(123)
    items = {task: [item for item in first if task_of(item) == task] for task in "ab"}
    draws = []
    for _ in range(4000):
        total = 0.0
        for task, names in items.items():
            chosen = generator.choice(len(names), len(names))
            share = weights[task] / sum(weights.values())
            total += share * np.mean([first[names[i]] - second[names[i]] for i in chosen])
        draws.append(total)
    found = paired_bootstrap(first, second, weights, task_of, level=0.9)
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.05, 0.95]).tolist(), abs=0.015)


def test_continuous_scores_resample_too() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(0.3, 1.0, 200)
    found = paired_bootstrap(scores("a", values), scores("a", np.zeros(200)), WEIGHTS, task_of)
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.difference == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.02)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_cover_the_truth_at_their_level(level: float) -> None:
    runs, truth, covered = 400, 0.15, 0
    for seed in range(runs):
        first, second = pair(seed, (120, 80), truth)
        found = paired_bootstrap(first, second, WEIGHTS, task_of, draws=500, level=level, seed=seed)
        covered += found.low <= truth <= found.high
    assert covered / runs == pytest.approx(level, abs=5 * np.sqrt(level * (1 - level) / runs))


def test_ties_are_called_ties_at_the_level() -> None:
    wrong = 0
    for seed in range(300):
        first, second = pair(seed, (100, 60), 0.0)
        wrong += paired_bootstrap(first, second, WEIGHTS, task_of, draws=400, seed=seed).verdict != "tie"
    assert 1 <= wrong <= 35


def test_depends_on_its_arguments_alone() -> None:
    first, second = pair(1)
    found = paired_bootstrap(first, second, WEIGHTS, task_of, seed=7)
    shuffled = dict(reversed(first.items()))
    np.random.random(3)
    assert paired_bootstrap(first, second, WEIGHTS, task_of, seed=7) == found
    again = paired_bootstrap(shuffled, second, WEIGHTS, task_of, seed=7)
    assert (again.low, again.high) == (found.low, found.high)
    assert again.difference == pytest.approx(found.difference)
    assert paired_bootstrap(first, second, WEIGHTS, task_of, seed=8) != found


def test_swapping_the_sides_flips_the_interval() -> None:
    first, second = pair(2, (200, 200))
    one = paired_bootstrap(first, second, WEIGHTS, task_of)
    two = paired_bootstrap(second, first, WEIGHTS, task_of)
    assert [two.difference, two.low, two.high] == pytest.approx([-one.difference, -one.high, -one.low], abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "tie"), (0.0, 0.1, "tie"), (-0.1, 0.0, "tie")],
)
def test_verdicts(low: float, high: float, verdict: str) -> None:
    assert Interval(0.0, low, high, 0.95).verdict == verdict


def test_equal_scores_are_an_exact_tie() -> None:
    first, _ = pair(3)
    assert paired_bootstrap(first, dict(first), WEIGHTS, task_of) == Interval(0.0, 0.0, 0.0, 0.95)


def test_a_clear_win_and_a_clear_loss() -> None:
    one, zero = scores("a", np.ones(30)), scores("a", np.zeros(30))
    assert paired_bootstrap(one, zero, WEIGHTS, task_of).verdict == "better"
    assert paired_bootstrap(zero, one, WEIGHTS, task_of).verdict == "worse"


def test_other_items_are_refused() -> None:
    first, second = pair(4)
    second.pop(next(iter(second)))
    with pytest.raises(ValueError, match="same items"):
        paired_bootstrap(first, second, WEIGHTS, task_of)
