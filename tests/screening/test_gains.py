"""Gains: the paired difference by hand, its interval's width, tasks of corpus-level metrics."""

import math

import numpy as np
import pytest

from evomerge.screening.gains import Scored, gain


def scored(**tasks: list[float]) -> Scored:
    items = {f"{task}/{place}": value for task, values in tasks.items() for place, value in enumerate(values)}
    return Scored({task: float(np.mean(values)) for task, values in tasks.items()}, items)


def test_the_difference_and_its_standard_error_are_those_of_the_item_differences() -> None:
    one, other = scored(a=[1, 1, 0, 1], b=[0.5, 0.5]), scored(a=[0, 1, 0, 0], b=[0.0, 0.5])
    found = gain(one, other, {"a": 3.0, "b": 1.0})
    assert found.difference == pytest.approx((3 * 0.5 + 1 * 0.25) / 4)
    differences = np.array([1, 0, 0, 1]), np.array([0.5, 0.0])
    errors = [d.var(ddof=1) / len(d) for d in differences]
    assert found.standard_error == pytest.approx(math.sqrt(0.75**2 * errors[0] + 0.25**2 * errors[1]))
    assert found.low < found.difference < found.high


def test_a_task_of_its_own_ignores_the_others() -> None:
    one, other = scored(a=[1, 1], b=[0, 0]), scored(a=[0, 0], b=[1, 1])
    assert gain(one, other, {"a": 1.0}).difference == 1.0
    assert gain(one, other, {"b": 1.0}).high == -1.0


def test_swapping_the_two_models_changes_the_sign() -> None:
    one, other = scored(a=[1, 0, 1, 1, 0, 1]), scored(a=[0, 0, 1, 0, 1, 0])
    there, back = gain(one, other, {"a": 1.0}), gain(other, one, {"a": 1.0})
    assert there.difference == -back.difference and there.standard_error == back.standard_error
    assert there.low == pytest.approx(-back.high, abs=0.1)  # both ends are quantiles of finitely many draws


def test_a_corpus_level_metric_has_a_difference_without_width() -> None:
    one, other = Scored({"a": 1.0, "f1": 0.75}, {"a/0": 1.0}), Scored({"a": 0.0, "f1": 0.5}, {"a/0": 0.0})
    assert gain(one, other, {"f1": 1.0}) == gain(one, other, {"f1": 5.0})
    assert gain(one, other, {"f1": 1.0}).low == 0.25
    assert gain(one, other, {"a": 1.0, "f1": 1.0}).difference == pytest.approx(0.625)
