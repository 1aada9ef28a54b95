"""The report's figures, drawn as inline SVG from a run's record."""

import math
from collections.abc import Sequence

from evomerge.report.coefficients import Block
from evomerge.report.record import ComparedModel, Point, Record, missing
from evomerge.report.svg import Scale, cross, dot, line, rect, scale, shorten, span, spread, svg, text, ticks
from evomerge.report.table import number

LEFT, TOP, PLOT, HEIGHT, LABELS = 46.0, 14.0, 576.0, 310.0, 164.0  # of the search curve, in pixels


def search_curve(record: Record) -> str:
    """A dot for each candidate in the order asked, the best so far as a line, baselines as labelled lines."""
    points, best = record.points, record.best_so_far()
    known = [*best, *(p.score for p in points), *(row["scores"]["search"] for row in record.baselines)]
    low, high = span([score for score in known if not missing(score)])
    x = scale(0, max(1, len(points)), LEFT, LEFT + PLOT)
    y = scale(low, high, TOP + HEIGHT, TOP)
    parts = [*_grid(x, y, low, high, len(points)), *_baseline_lines(record, y)]
    steps = [(x(i), y(value)) for i, value in enumerate(best) if not missing(value)]
    parts.append(f'<path class="best" d="{_staircase(steps)}"/>')
    radius = 3.2 if len(points) <= 300 else 2.2
    parts += [_mark(point, x(point.number), y, radius, record.result["winner"]["key"]) for point in points]
    scored = sum(not missing(point.score) for point in points)
    first = " comes" if missing(best[0]) else f" rises from {number(best[0])} of the best baseline"
    description = f"{scored} of {len(points)} candidates scored; the best score{first} to {number(best[-1])}."
    size = (LEFT + PLOT + LABELS, TOP + HEIGHT + 46)
    return svg("search", "Score of each candidate on the search slice", description, size, parts)


def task_bars(task: str, contenders: Sequence[ComparedModel], name: str) -> str:
    """The contenders' scores on one task of holdout, as bars."""
    values = [contender.scores.get(task, math.nan) for contender in contenders]
    good = [value for value in values if not missing(value)]
    low, high = min([0.0, *good]), max([0.0, *good])
    high = 1.0 if low == 0.0 and high <= 1.0 else high
    x, row = scale(low, high, 96, 262), 20
    parts = []
    for place, (contender, value) in enumerate(zip(contenders, values, strict=True)):
        middle = 12 + place * row
        start, end = (x(0.0), x(0.0)) if missing(value) else sorted((x(0.0), x(value)))
        tip = f"{contender.label}: {number(value)}"
        parts.append(text(88, middle, shorten(contender.label, 12), f"label {contender.role}", "end"))
        parts.append(rect(96, middle - 6, 166, 12, "track", tip))
        parts.append(rect(start, middle - 6, max(end - start, 1.0), 12, f"bar {contender.role}", tip))
        parts.append(text(270, middle, number(value), f"value {contender.role}"))
    description = "; ".join(f"{c.label} {number(v)}" for c, v in zip(contenders, values, strict=True))
    return svg(name, f"Holdout score on {task}", description, (320, 12 + row * len(contenders)), parts)


def heat_map(gene: str, blocks: Sequence[Block], name: str) -> str:
    """A gene's values: a row for each model, a column for each run of layers, components below one another."""
    known = [abs(v) for block in blocks for row in block.rows.values() for v in row if v is not None]
    most = max(known, default=0.0) or 1.0
    parts: list[str] = []
    top = 4.0
    for block in blocks:
        top = _heat_block(parts, block, top, most)
    description = f"From {number(-most) if _negative(blocks) else '0'} (pale) to {most:.3f} (full colour)."
    return svg(name, f"{gene} of each model by layer", description, (786, top), parts)


def _heat_block(parts: list[str], block: Block, top: float, most: float) -> float:
    """Draw a block below `top`; returns where the next one begins."""
    left, room, row = 120.0, 666.0, 26.0
    layered = block.component != "outside the layers"
    wide = [*block.widths] if layered else [1] * len(block.columns)
    unit = min(room / sum(wide), 150.0 if not layered else room)
    parts.append(text(left, top + 8, block.component, "heading"))
    top += 22
    for owner, values in block.rows.items():
        parts.append(text(left - 8, top + row / 2 - 1, shorten(owner, 15), "label", "end"))
        x = left
        for column, width, value in zip(block.columns, wide, values, strict=True):
            parts += _cell(x, top, width * unit - 2, row - 2, value, f"{owner}, {column}", most)
            x += width * unit
        top += row
    x, free = left, -math.inf
    for column, width in zip(block.columns, wide, strict=True):
        middle, half = x + (width * unit - 2) / 2, 3.3 * len(column) + 4
        if middle - half >= free:
            parts.append(text(middle, top + 8, column, "tick", "middle"))
            free = middle + half
        x += width * unit
    if layered:
        parts.append(text(left - 8, top + 8, "layer", "tick", "end"))
    return top + 30


def _cell(x: float, y: float, width: float, height: float, value: float | None, what: str, most: float) -> list[str]:
    if value is None:
        return [rect(x, y, width, height, "empty", f"{what}: not merged here")]
    strength = abs(value) / most
    kind = "cold" if value < 0 else "hot"
    parts = [rect(x, y, width, height, kind, f"{what}: {value:.6g}", 0.07 + 0.93 * strength)]
    if width >= 30:
        parts.append(text(x + width / 2, y + height / 2, f"{value:.2f}", "on" if strength > 0.75 else "off", "middle"))
    return parts


def _negative(blocks: Sequence[Block]) -> bool:
    return any(v is not None and v < 0 for block in blocks for row in block.rows.values() for v in row)


def _grid(x: Scale, y: Scale, low: float, high: float, count: int) -> list[str]:
    parts = []
    for value in ticks(low, high):
        parts.append(line(LEFT, y(value), LEFT + PLOT, y(value), "grid"))
        parts.append(text(LEFT - 8, y(value), f"{value:g}", "tick", "end"))
    for value in ticks(0, max(1, count), 6):
        if value == int(value):
            parts.append(text(x(value), TOP + HEIGHT + 14, f"{value:g}", "tick", "middle"))
    parts.append(text(LEFT + PLOT / 2, TOP + HEIGHT + 34, "candidates, in the order asked", "tick", "middle"))
    return parts


def _baseline_lines(record: Record, y: Scale) -> list[str]:
    rows = [row for row in record.baselines if not missing(row["scores"]["search"])]
    heights = [y(row["scores"]["search"]) for row in rows]
    parts = []
    for row, height, place in zip(rows, heights, spread(heights, 15, TOP, TOP + HEIGHT), strict=True):
        rival = "rival" if row["label"] == record.result["best_baseline"] else ""
        end = LEFT + PLOT
        parts.append(line(LEFT, height, end, height, f"baseline {rival}"))
        parts.append(line(end, height, end + 10, place, f"lead {rival}"))
        label = f"{shorten(row['label'], 13)} {number(row['scores']['search'])}"
        parts.append(text(end + 14, place, label, f"label {rival}"))
    return parts


def _mark(point: Point, x: float, y: Scale, radius: float, winner: str) -> str:
    if missing(point.score):
        return cross(x, TOP + HEIGHT, "failed", f"candidate {point.number} failed: {point.error or 'not scored'}")
    tip = f"candidate {point.number}: {number(point.score)}"
    if point.key == winner:
        return dot(x, y(point.score), radius + 2.8, "winner", f"{tip}, the winner")
    kind = "candidate" if point.whole else "candidate dropped"
    return dot(x, y(point.score), radius, kind, tip if point.whole else f"{tip} on the items it was scored on")


def _staircase(steps: Sequence[tuple[float, float]]) -> str:
    if not steps:
        return "M0 0"
    (x, y), rest = steps[0], steps[1:]
    return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
