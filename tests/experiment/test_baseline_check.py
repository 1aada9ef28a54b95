"""What is said of a task on which the baselines show nothing."""

import itertools

import pytest
from scipy.stats import binomtest

from evomerge.experiment.baseline_check import ADVICE, binomial_interval, find_warnings


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (1, 20), (46, 200), (700, 1000), (1, 1)])
def test_the_interval_is_that_of_scipy(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(0.95, "exact")
    assert binomial_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def row(task: str, hits: int, count: int = 200) -> dict[str, float]:
    return {f"{task}/test/{i}": float(i < hits) for i in range(count)}


def chances(task: str, chance: float = 0.25, count: int = 200) -> dict[str, float]:
    return dict.fromkeys(row(task, 0, count), chance)


def test_baselines_at_chance_are_named_with_their_scores() -> None:
    (line,) = find_warnings([row("news", hits) for hits in (46, 52, 49)], chances("news"))
    interval = binomtest(52, 200).proportion_ci(0.95, "exact")
    assert line == (
        "Warning: task 'news': no baseline is better than chance: scores from 0.230 to 0.260 on 200 items, the best "
        f"with an exact 95% interval from {interval.low:.3f} to {interval.high:.3f}, and guessing gives 0.250; {ADVICE}"
    )


@pytest.mark.parametrize("best", range(45, 80, 5))
def test_one_baseline_above_chance_is_enough(best: int) -> None:
    above = binomtest(best, 200).proportion_ci(0.95, "exact").low > 0.25
    assert bool(find_warnings([row("news", 46), row("news", best), row("news", 44)], chances("news"))) is not above


def test_worse_than_chance_is_a_warning_too() -> None:
    assert "no baseline is better" in find_warnings([row("news", 2), row("news", 1)], chances("news"))[0]


@pytest.mark.parametrize(("hits", "words"), [(0, "the same score, 0.000"), (50, "the same score"), (200, "only lose")])
def test_equal_rows_are_a_warning_whatever_the_task(hits: int, words: str) -> None:
    (line,) = find_warnings([row("maths", hits)] * 3, {})
    assert words in line and "task 'maths': every baseline" in line
    assert find_warnings([row("maths", hits)], {}) == [], "a single row is equal to nothing else"


def test_a_task_without_choices_has_no_chance() -> None:
    assert find_warnings([row("maths", 1), row("maths", 2)], {}) == []
    half = {item: score / 2 for item, score in row("maths", 1).items()}
    assert find_warnings([half, row("maths", 2)], chances("maths")) == [], "scores that are no 0 or 1"


def test_each_task_is_looked_at_alone() -> None:
    rows = [row("good", good) | row("bad", bad) for good, bad in ((150, 50), (90, 52))]
    (line,) = find_warnings(rows, chances("good") | chances("bad"))
    assert "task 'bad'" in line


def test_items_with_other_numbers_of_choices_have_a_mean_chance() -> None:
    mixed = dict(zip(row("news", 0), itertools.cycle([0.5, 0.25]), strict=False))
    (line,) = find_warnings([row("news", 70), row("news", 75)], mixed)
    assert "guessing gives 0.375" in line


def test_nothing_is_said_without_rows() -> None:
    assert find_warnings([], {}) == []
