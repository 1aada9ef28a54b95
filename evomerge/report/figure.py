"""A chart with its title, its text alternative and its values as a table, for screen and paper alike."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import altair

from evomerge.report.html_elements import Grid, details, table
from evomerge.report.vega import Spec, to_svg

LONGEST_TABLE = 2000  # rows
WIDTH, NARROW = 640, 300  # pixels of the plot on paper


@dataclass(frozen=True)
class Figure:
    """A chart; `name` is its id on the page and the name of its files.

    `description` says in a sentence what the chart shows. `values` are the numbers that it draws. `legend` has for each
    kind of mark its style, a character of the same shape, and its meaning.
    """

    name: str
    title: str
    description: str
    chart: altair.LayerChart
    values: Grid
    legend: Sequence[tuple[str, str, str]] = ()
    width: int = WIDTH

    @cached_property
    def spec(self) -> Spec:
        """The Vega-Lite specification, without width and colours."""
        found: Spec = self.chart.to_dict(validate=False)  # tests validate, which takes most of the time
        return {key: value for key, value in found.items() if key != "config"}

    @property
    def svg(self) -> str:
        """The chart as light SVG; ids are unique on a page, and do not depend on charts drawn before."""
        svg = to_svg(self.spec, self.width)
        for place, old in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', svg))):
            new = f"{self.name}-{place}"
            svg = svg.replace(f'id="{old}"', f'id="{new}"').replace(f"url(#{old})", f"url(#{new})")
        return svg


def figure_html(figure: Figure) -> str:
    """The figure: still SVG for paper and for browsers without scripts, specification, legend, and table of values."""
    live = script_data({**figure.spec, "width": "container"})
    plot = f'<div class="still">{figure.svg}</div><div class="live"></div>'
    more = len(figure.values.rows) > LONGEST_TABLE
    rows = Grid(figure.values.heads, figure.values.rows[:LONGEST_TABLE])
    summary = f"Values as a table{f', the first {LONGEST_TABLE} of {len(figure.values.rows)}' * more}"
    return (
        f'<figure class="chart" id="{escape(figure.name)}"><h3>{escape(figure.title)}</h3>\n'
        f'<div class="plot" role="img" aria-label="{escape(figure.description)}">{plot}</div>\n'
        f'<script type="application/json">{live}</script>\n'
        f"{legend_html(figure.legend)}{details(summary, table(rows, f'values of {figure.title}'))}</figure>"
    )


def legend_html(keys: Sequence[tuple[str, str, str]]) -> str:
    """What each kind of mark means; empty without keys."""
    shown = (
        f'<span><b class="{style}" aria-hidden="true">{shape}</b> {escape(meaning)}</span>'
        for style, shape, meaning in keys
    )
    return f"<figcaption>{''.join(shown)}</figcaption>" if keys else ""


def script_data(value: Any) -> str:
    """JSON for a script element, which no text inside can close."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
