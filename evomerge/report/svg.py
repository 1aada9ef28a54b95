"""Parts of an SVG as strings, and their placement. Colours are CSS classes, so report.css can offer a dark mode."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

Scale = Callable[[float], float]  # from a data value to pixels


class Box(NamedTuple):
    """A rectangle in pixels; `x` and `y` are its upper left corner."""

    x: float
    y: float
    width: float
    height: float


def svg_figure(name: str, title: str, description: str, size: tuple[float, float], parts: Iterable[str]) -> str:
    """A figure of `size` (width, height) in pixels that scales down on narrow screens; `name` is unique in the page."""
    width, height = size
    body = "\n".join(parts)
    return (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-desc" viewBox="0 0 {width:g} {height:g}"'
        f' style="max-width:{width:g}px;min-width:{min(width, 640):g}px">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n<desc id="{name}-desc">{escape(description)}</desc>\n'
        f"{body}\n</svg>"
    )


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text that is vertically centred at `y`; `kind` is its CSS class."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} dominant-baseline="central" class="{kind}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def rect(box: Box, kind: str, tip: str, opacity: float = 1.0) -> str:
    """A filled rectangle with a tooltip."""
    shade = "" if opacity == 1.0 else f' fill-opacity="{opacity:.3f}"'
    place = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{max(0.0, box.width):.1f}" height="{box.height:.1f}"'
    return f'<rect {place} rx="2" class="{kind}"{shade}><title>{escape(tip)}</title></rect>'


def dot(x: float, y: float, radius: float, kind: str, tip: str) -> str:
    """A filled circle with a tooltip."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"><title>{escape(tip)}</title></circle>'


def cross(x: float, y: float, kind: str, tip: str, arm: float = 3.5) -> str:
    """A small × with a tooltip."""
    path = f"M{x - arm:.1f} {y - arm:.1f}l{2 * arm:g} {2 * arm:g}m0 {-2 * arm:g}l{-2 * arm:g} {2 * arm:g}"
    return f'<path d="{path}" class="{kind}"><title>{escape(tip)}</title></path>'


def shorten(label: str, limit: int) -> str:
    """The label; if it is longer than `limit` characters, an ellipsis replaces its middle."""
    if len(label) <= limit:
        return label
    return f"{label[: (limit - 1) // 2]}…{label[-(limit // 2) :]}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers between `low` and `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def spread_out(positions: Iterable[float], gap: float, low: float, high: float) -> list[float]:
    """The positions moved so that they are at least `gap` apart and between `low` and `high`, in the same order."""
    order = sorted(enumerate(positions), key=lambda pair: pair[1])
    places: list[float] = []
    for _, value in order:
        places.append(max(value, low, places[-1] + gap if places else low))
    ceiling = high
    for i in reversed(range(len(places))):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    by_index = dict(zip((i for i, _ in order), places, strict=True))
    return [by_index[i] for i in range(len(places))]


def linear_scale(low: float, high: float, start: float, end: float) -> Scale:
    """The linear map from low … high to start … end."""
    return lambda value: start + (value - low) / ((high - low) or 1.0) * (end - start)


def padded_range(scores: Sequence[float]) -> tuple[float, float]:
    """The range of the scores with a margin; the margin stays inside 0 … 1 if the scores do."""
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    margin = 0.06 * (high - low) or 0.05
    inside = low >= 0.0 and high <= 1.0
    return (max(0.0, low - margin), min(1.0, high + margin)) if inside else (low - margin, high + margin)
