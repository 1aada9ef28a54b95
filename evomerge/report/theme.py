"""Colours and fonts of the charts, as one Vega configuration for light and one for dark pages.

Specifications name styles and contain no colour, so the same chart is drawn in both. The hues are blue, orange and
grey, which people with any colour blindness tell apart; every role also has a shape, a pattern or a label of its own.
"""

from collections.abc import Mapping
from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LIGHT_COLOURS = {
    "paper": "#ffffff",
    "ink": "#171a21",
    "muted": "#5b6270",
    "rule": "#e1e4ea",
    "winner": "#1f56c3",
    "baseline": "#b25e09",
    "expert": "#7b8496",
    "member": "#17694a",
    "failed": "#b3261e",
    "on": "#ffffff",  # text on a cell of full colour, and below it on one of half
    "middle": "#171a21",
}
DARK_COLOURS = {
    "paper": "#12151b",
    "ink": "#e8ebf1",
    "muted": "#9aa3b3",
    "rule": "#2b313c",
    "winner": "#7aa7ff",
    "baseline": "#f0a355",
    "expert": "#8b96a9",
    "member": "#86dcb5",
    "failed": "#ff8a80",
    "on": "#0d1220",
    "middle": "#0d1220",
}
LIGHT_RUNS = ["#1f56c3", "#b25e09", "#17694a", "#a3337a", "#5b6270", "#0b7a8c"]
DARK_RUNS = ["#7aa7ff", "#f0a355", "#86dcb5", "#f09bd0", "#b7bfcd", "#66cfe0"]


def vega_config(colours: Mapping[str, str], runs: list[str]) -> dict[str, Any]:
    """The Vega configuration for a set of colours; `runs` are the colours of runs in a comparison."""
    muted, rule = colours["muted"], colours["rule"]
    return {
        "mark": {"aria": False},  # the element around a chart describes it
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "aria": False,
            "labelColor": muted,
            "titleColor": muted,
            "gridColor": rule,
            "domainColor": muted,
            "tickColor": muted,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 130,
        },
        "legend": {"aria": False, "labelColor": muted, "labelFontSize": 12, "labelFont": FONT},
        "text": {"fontSize": 12},
        "range": {"diverging": [colours["baseline"], colours["rule"], colours["winner"]], "category": runs},
        "style": {name: {"color": colour} for name, colour in colours.items()},
    }


LIGHT = vega_config(LIGHT_COLOURS, LIGHT_RUNS)
DARK = vega_config(DARK_COLOURS, DARK_RUNS)
