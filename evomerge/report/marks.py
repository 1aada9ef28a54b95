"""The parts that the charts share: rows as data, axes and tooltips."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import altair
from altair.utils.schemapi import debug_mode

Row = Mapping[str, str | int | float | None]
Tips = Mapping[str, str]  # field → its title in the tooltip
SCORE = ".4f"
MOST_POINTS = 2000  # of one kind in a chart: more can neither be told apart nor be loaded by a phone
T = TypeVar("T")
LABEL = "datum.label"
SHORTENED = f"length({LABEL}) > 18 ? slice({LABEL}, 0, 9) + '…' + slice({LABEL}, -8) : {LABEL}"


def base(rows: Iterable[Row]) -> altair.Chart:
    """A chart of these rows, still without a mark; a number that is not finite is a missing value."""
    values = [{name: None if _is_undefined(value) else value for name, value in row.items()} for row in rows]
    with debug_mode(False):  # every row would be validated, which takes most of the time; tests validate
        return altair.Chart(altair.Data(values=values))


def thinned(rows: Sequence[T], most: int | None = None) -> Sequence[T]:
    """The rows, or an equal sample of at most `most` of them, by default MOST_POINTS, which has the last one."""
    step = -(-len(rows) // (most or MOST_POINTS)) or 1
    return rows[::-step][::-1]


def _is_undefined(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def layered(layers: Sequence[altair.Chart], height: int) -> altair.LayerChart:
    """The charts over one another, the last one on top; `height` is that of the plot in pixels."""
    return altair.LayerChart(layer=list(layers), height=height)


def tooltips(tips: Tips) -> list[altair.Tooltip]:
    """The lines of a tooltip; the value of a field whose title ends with * is a number with four decimals."""
    return [
        altair.Tooltip(field=field, type="quantitative", format=SCORE, title=title[:-1])
        if title.endswith("*")
        else altair.Tooltip(field=field, type="nominal", title=title)
        for field, title in tips.items()
    ]


def x_axis(field: str, title: str) -> altair.X:
    """A quantitative horizontal axis, from the smallest to the largest value."""
    scale, axis = altair.Scale(zero=False), altair.Axis(tickCount=5)
    return altair.X(field=field, type="quantitative", title=title, scale=scale, axis=axis)


def bar_axis(field: str, title: str, low: float, high: float) -> altair.X:
    """A horizontal axis of bars from `low` to `high`, with room for a number at the end of the longest."""
    scale = altair.Scale(domain=[low, high + 0.22 * (high - low)], nice=False)
    axis = altair.Axis(tickCount=5, labelExpr=f"datum.value > {high:.6g} ? '' : datum.label")
    return altair.X(field=field, type="quantitative", title=title, scale=scale, axis=axis)


def y_axis(field: str, title: str) -> altair.Y:
    """A quantitative vertical axis, from the smallest to the largest value."""
    return altair.Y(field=field, type="quantitative", title=title, scale=altair.Scale(zero=False, nice=True))


def names_axis(field: str, order: Sequence[str]) -> altair.Y:
    """A vertical axis of names in the given order; an ellipsis replaces the middle of a long one."""
    axis = altair.Axis(ticks=False, domain=False, labelExpr=SHORTENED)
    return altair.Y(field=field, type="nominal", title=None, sort=list(order), axis=axis)
