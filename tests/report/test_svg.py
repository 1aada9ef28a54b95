"""Placing things: ticks, labels that must not overlap, long names."""

from itertools import pairwise

import pytest

from evomerge.report.svg import shorten, spread_out, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.24, 0.61, [0.3, 0.4, 0.5, 0.6]),
        (-7.0, 12.0, [-5.0, 0.0, 5.0, 10.0]),
        (3.0, 3.0, [3.0]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_spread_keeps_order_distance_and_bounds() -> None:
    wanted = [50.0, 10.0, 51.0, 99.0, 98.0]
    places = spread_out(wanted, 10, 0, 100)
    ordered = sorted(places)
    assert all(right - left >= 10 for left, right in pairwise(ordered))
    assert min(places) >= 0 and max(places) <= 100
    assert sorted(range(5), key=wanted.__getitem__) == sorted(range(5), key=places.__getitem__)


def test_spread_leaves_alone_what_has_room() -> None:
    assert spread_out([80.0, 20.0], 10, 0, 100) == [80.0, 20.0]


def test_shorten_keeps_both_ends() -> None:
    assert shorten("short", 12) == "short"
    assert shorten("a-very-long-name", 8) == "a-v…name" and len(shorten("a-very-long-name", 8)) == 8
