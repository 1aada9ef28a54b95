"""Interval, test and correction against explicit ones, and the promises of their levels."""

import itertools
import math

import numpy as np
import pytest

from evomerge.finalise.statistics import (
    ConfidenceInterval,
    PairedScores,
    bootstrap,
    compare,
    holm,
    sign_flips,
)

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


def paired_bootstrap(
    first: dict[str, float],
    second: dict[str, float],
    weights: dict[str, float] = WEIGHTS,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 10_000,
) -> ConfidenceInterval:
    return bootstrap(PairedScores.of(first, second, weights, task_of), draws=draws, level=level, seed=seed)


def test_the_observed_difference_weighs_tasks_not_items() -> None:
    first = scores("a", [1, 1, 1, 1]) | scores("b", [0, 1])
    second = scores("a", [0, 0, 1, 1]) | scores("b", [1, 1])
    found = paired_bootstrap(first, second, {"a": 1.0, "b": 3.0, "unused": 9.0})
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
    found = paired_bootstrap(first, second, weights, level=0.9)
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.05, 0.95]).tolist(), abs=0.015)


def test_continuous_scores_resample_too() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(0.3, 1.0, 200)
    found = paired_bootstrap(scores("a", values), scores("a", np.zeros(200)))
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.difference == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.02)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_cover_the_truth_at_their_level(level: float) -> None:
    runs, truth, covered = 400, 0.15, 0
    for seed in range(runs):
        first, second = pair(seed, (120, 80), truth)
        found = paired_bootstrap(first, second, draws=500, level=level, seed=seed)
        covered += found.low <= truth <= found.high
    assert covered / runs == pytest.approx(level, abs=5 * np.sqrt(level * (1 - level) / runs))


def test_ties_are_called_ties_at_the_level() -> None:
    wrong = 0
    for seed in range(300):
        first, second = pair(seed, (100, 60), 0.0)
        wrong += paired_bootstrap(first, second, draws=400, seed=seed).verdict != "tie"
    assert 1 <= wrong <= 35


def test_depends_on_its_arguments_alone() -> None:
    first, second = pair(1)
    found = paired_bootstrap(first, second, seed=7)
    shuffled = dict(reversed(first.items()))
    np.random.random(3)
    assert paired_bootstrap(first, second, seed=7) == found
    again = paired_bootstrap(shuffled, second, seed=7)
    assert (again.low, again.high) == (found.low, found.high)
    assert again.difference == pytest.approx(found.difference)
    assert paired_bootstrap(first, second, seed=8) != found


def test_swapping_the_sides_flips_the_interval() -> None:
    first, second = pair(2, (200, 200))
    one = paired_bootstrap(first, second)
    two = paired_bootstrap(second, first)
    assert [two.difference, two.low, two.high] == pytest.approx([-one.difference, -one.high, -one.low], abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "tie"), (0.0, 0.1, "tie"), (-0.1, 0.0, "tie")],
)
def test_verdicts(low: float, high: float, verdict: str) -> None:
    assert ConfidenceInterval(0.0, low, high, 0.95).verdict == verdict


def test_equal_scores_are_an_exact_tie() -> None:
    first, _ = pair(3)
    assert paired_bootstrap(first, dict(first)) == ConfidenceInterval(0.0, 0.0, 0.0, 0.95)


def test_a_clear_win_and_a_clear_loss() -> None:
    one, zero = scores("a", np.ones(30)), scores("a", np.zeros(30))
    assert paired_bootstrap(one, zero).verdict == "better"
    assert paired_bootstrap(zero, one).verdict == "worse"


def test_other_items_are_refused() -> None:
    first, second = pair(4)
    second.pop(next(iter(second)))
    with pytest.raises(ValueError, match="same items"):
        paired_bootstrap(first, second)


def differences(*tasks: list[float]) -> PairedScores:
    return PairedScores(tuple(np.array(task) for task in tasks), (1 / len(tasks),) * len(tasks))


def every_sign(paired: PairedScores) -> float:
    """The p-value by its definition: all 2ⁿ ways to flip the items."""
    weighted = [s / len(d) * d for s, d in zip(paired.weights, paired.differences, strict=True)]
    values = np.concatenate(weighted)
    sums = [abs(sum(sign * v for sign, v in zip(signs, values, strict=True))) for signs in flips(len(values))]
    return sum(s >= abs(values.sum()) - 1e-12 for s in sums) / len(sums)


def flips(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (9, 1), (1, 9), (30, 12), (400, 380), (2000, 3)])
def test_mcnemar_is_the_binomial_of_the_discordant_items(wins: int, losses: int) -> None:
    found = sign_flips(differences([1.0] * wins + [-1.0] * losses + [0.0] * 50))
    count, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count
    assert found.p == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert (found.test, found.exact) == ("McNemar", True)


@pytest.mark.parametrize(("wins", "losses"), [(7, 2), (31, 15), (120, 120)])
def test_mcnemar_is_scipys_sign_test(wins: int, losses: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = sign_flips(differences([1.0] * wins + [-1.0] * losses))
    assert found.p == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_sign_flips_are_those_of_the_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tasks = [generator.integers(-2, 3, size).astype(float).tolist() for size in (5, 7)]
    paired = differences(*tasks)
    found = sign_flips(paired)
    assert found.exact and found.p == pytest.approx(every_sign(paired))


def test_tasks_of_other_sizes_weigh_as_in_the_score() -> None:
    """Ten wins of ten in a small task and ten losses of a thousand in a large one are no tie."""
    paired = differences([1.0] * 10, [-1.0] * 10 + [0.0] * 990)
    found = sign_flips(paired)
    assert found.test == "sign flips" and found.exact and paired.difference > 0.4
    assert found.p == pytest.approx(2**-9, rel=0.01)


def test_drawn_signs_agree_with_all_of_them() -> None:
    values = np.random.default_rng(1).normal(0.15, 1.0, 60)
    drawn = sign_flips(differences(values.tolist()), draws=40_000)
    normal = math.erfc(abs(values.sum()) / math.sqrt((values**2).sum()) / math.sqrt(2))
    assert not drawn.exact and drawn.p == pytest.approx(normal, abs=0.02)
    assert sign_flips(differences(values.tolist()), draws=40_000) == drawn, "the seed decides"
    assert sign_flips(differences((values + 9.0).tolist()), draws=999).p == pytest.approx(1 / 1000)


def test_a_p_value_is_as_rare_as_it_says_where_models_are_alike() -> None:
    p_values = []
    for seed in range(400):
        first, second = pair(seed, (60, 35), 0.0)
        p_values.append(sign_flips(PairedScores.of(first, second, WEIGHTS, task_of)).p)
    for level in (0.01, 0.05, 0.2):
        share = np.mean(np.array(p_values) <= level)
        assert share <= level + 4 * math.sqrt(level * (1 - level) / 400)
    assert np.mean(np.array(p_values) <= 0.2) >= 0.1, "nor is it blunt"


def test_swapping_the_sides_keeps_p() -> None:
    first, second = pair(6)
    one, two = PairedScores.of(first, second, WEIGHTS, task_of), PairedScores.of(second, first, WEIGHTS, task_of)
    assert sign_flips(one).p == pytest.approx(sign_flips(two).p)
    assert (one.difference, one.standard_error) == pytest.approx((-two.difference, two.standard_error))


def test_the_standard_error_is_that_of_the_bootstrap() -> None:
    first, second = pair(8, (200, 150))
    paired = PairedScores.of(first, second, {"a": 3.0, "b": 1.0}, task_of)
    span = bootstrap(paired, level=0.6827)
    assert paired.standard_error == pytest.approx((span.high - span.low) / 2, rel=0.06)


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}
    assert holm({"only": 0.03}) == {"only": 0.03}


@pytest.mark.slow
def test_many_claims_err_at_the_level_of_one() -> None:
    """Eight baselines as good as the winner: some claim is wrong in no more than one run in twenty."""
    wrong = 0
    for seed in range(150):
        generator = np.random.default_rng(seed)
        models = [scores("a", (generator.random(80) < 0.6).astype(float)) for _ in range(9)]
        found = compare(models[0], {str(i): m for i, m in enumerate(models[1:])}, WEIGHTS, task_of, seed)
        wrong += any(one.verdict != "tie" for one in found)
    assert wrong <= 150 * 0.05 + 3 * math.sqrt(150 * 0.05 * 0.95)


def test_a_comparison_says_better_where_interval_and_corrected_test_agree() -> None:
    one, zero = scores("a", np.ones(40)), scores("a", np.zeros(40))
    found = {c.label: c for c in compare(one, {"zero": zero, "same": one}, WEIGHTS, task_of)}
    assert [found[label].verdict for label in ("zero", "same")] == ["better", "tie"]
    assert found["zero"].corrected_p == pytest.approx(2 * found["zero"].significance.p)
    few = compare(scores("a", np.ones(4)), {"zero": scores("a", np.zeros(4))}, WEIGHTS, task_of)[0]
    assert few.interval.verdict == "better" and few.verdict == "tie", "four items prove nothing"
