"""The report's charts as inline SVG: search curve, task bars and heat maps of coefficients."""

import math
from collections.abc import Sequence

from evomerge.report.coefficients import OUTSIDE, Block
from evomerge.report.record import BEST_BASELINE, ComparedModel, Record, is_missing
from evomerge.report.search_scores import CandidateScore
from evomerge.report.svg import (
    Box,
    Scale,
    cross,
    dot,
    line,
    linear_scale,
    padded_range,
    rect,
    shorten,
    spread_out,
    svg_figure,
    text,
    ticks,
)
from evomerge.report.table import format_score

LEFT, TOP, PLOT, HEIGHT, LABELS = 46.0, 14.0, 576.0, 310.0, 164.0  # of the search curve, in pixels


def search_curve(record: Record) -> str:
    """A dot for each candidate in the order proposed, the best score so far as a line, a labelled line per baseline."""
    candidates, best = record.candidates, record.best_so_far()
    scores = [*best, *(c.score for c in candidates), *(row["scores"]["search"] for row in record.baselines)]
    low, high = padded_range([score for score in scores if not is_missing(score)])
    x = linear_scale(0, max(1, len(candidates)), LEFT, LEFT + PLOT)
    y = linear_scale(low, high, TOP + HEIGHT, TOP)
    parts = [*_grid(x, y, low, high, len(candidates)), *_baseline_lines(record, y)]
    steps = [(x(i), y(value)) for i, value in enumerate(best) if not is_missing(value)]
    parts.append(f'<path class="best" d="{_staircase(steps)}"/>')
    radius = 3.2 if len(candidates) <= 300 else 2.2
    parts += [_mark(c, x(c.number), y, radius, record.result["winner"]["key"]) for c in candidates]
    scored = sum(not is_missing(c.score) for c in candidates)
    start = " comes" if is_missing(best[0]) else f" rises from {format_score(best[0])} of the best baseline"
    description = f"{scored} of {len(candidates)} candidates scored; the best score{start} to {format_score(best[-1])}."
    size = (LEFT + PLOT + LABELS, TOP + HEIGHT + 46)
    return svg_figure("search", "Score of each candidate on the search slice", description, size, parts)


def task_bars(task: str, models: Sequence[ComparedModel], name: str) -> str:
    """The models' scores on one task of holdout as bars."""
    values = [model.scores.get(task, math.nan) for model in models]
    scored = [value for value in values if not is_missing(value)]
    low, high = min([0.0, *scored]), max([0.0, *scored])
    high = 1.0 if low == 0.0 and high <= 1.0 else high
    x, row = linear_scale(low, high, 96, 262), 20
    parts = []
    for place, (model, value) in enumerate(zip(models, values, strict=True)):
        middle = 12 + place * row
        start, end = (x(0.0), x(0.0)) if is_missing(value) else sorted((x(0.0), x(value)))
        tip = f"{model.label}: {format_score(value)}"
        parts.append(text(88, middle, shorten(model.label, 12), f"label {model.role}", "end"))
        parts.append(rect(Box(96, middle - 6, 166, 12), "track", tip))
        parts.append(rect(Box(start, middle - 6, max(end - start, 1.0), 12), f"bar {model.role}", tip))
        parts.append(text(270, middle, format_score(value), f"value {model.role}"))
    description = "; ".join(f"{m.label} {format_score(v)}" for m, v in zip(models, values, strict=True))
    return svg_figure(name, f"Holdout score on {task}", description, (320, 12 + row * len(models)), parts)


def heat_map(gene: str, blocks: Sequence[Block], name: str) -> str:
    """A gene's values: a row for each model, a column for each run of equal layers, one block per component."""
    values = [value for block in blocks for row in block.rows.values() for value in row if value is not None]
    largest = max(map(abs, values), default=0.0) or 1.0
    parts: list[str] = []
    bottom = 4.0
    for block in blocks:
        drawn, bottom = _heat_block(block, bottom, largest)
        parts += drawn
    least = format_score(-largest) if any(value < 0 for value in values) else "0"
    description = f"From {least} (pale) to {largest:.3f} (full colour)."
    return svg_figure(name, f"{gene} of each model by layer", description, (786, bottom), parts)


def _heat_block(block: Block, top: float, largest: float) -> tuple[list[str], float]:
    """The parts of a block drawn below `top`, and the height at which it ends."""
    left, available, row = 120.0, 666.0, 26.0
    layered = block.component != OUTSIDE
    widths = [*block.widths] if layered else [1] * len(block.columns)
    unit = min(available / sum(widths), 150.0 if not layered else available)
    edges = [left + unit * sum(widths[:i]) for i in range(len(widths))]
    parts = [text(left, top + 8, block.component, "heading")]
    top += 22
    for owner, values in block.rows.items():
        parts.append(text(left - 8, top + row / 2 - 1, shorten(owner, 15), "label", "end"))
        for column, x, width, value in zip(block.columns, edges, widths, values, strict=True):
            parts += _cell(Box(x, top, width * unit - 2, row - 2), value, f"{owner}, {column}", largest)
        top += row
    free = -math.inf  # a column's label is left out where it would overlap the last one
    for column, x, width in zip(block.columns, edges, widths, strict=True):
        middle, half = x + (width * unit - 2) / 2, 3.3 * len(column) + 4
        if middle - half >= free:
            parts.append(text(middle, top + 8, column, "tick", "middle"))
            free = middle + half
    if layered:
        parts.append(text(left - 8, top + 8, "layer", "tick", "end"))
    return parts, top + 30


def _cell(box: Box, value: float | None, name: str, largest: float) -> list[str]:
    if value is None:
        return [rect(box, "empty", f"{name}: not merged here")]
    strength = abs(value) / largest
    kind = "cold" if value < 0 else "hot"
    parts = [rect(box, kind, f"{name}: {value:.6g}", 0.07 + 0.93 * strength)]
    if box.width >= 30:
        middle = (box.x + box.width / 2, box.y + box.height / 2)
        parts.append(text(*middle, f"{value:.2f}", "on" if strength > 0.75 else "off", "middle"))
    return parts


def _grid(x: Scale, y: Scale, low: float, high: float, count: int) -> list[str]:
    parts = []
    for value in ticks(low, high):
        parts.append(line(LEFT, y(value), LEFT + PLOT, y(value), "grid"))
        parts.append(text(LEFT - 8, y(value), f"{value:g}", "tick", "end"))
    for value in ticks(0, max(1, count), 6):
        if value == int(value):
            parts.append(text(x(value), TOP + HEIGHT + 14, f"{value:g}", "tick", "middle"))
    parts.append(text(LEFT + PLOT / 2, TOP + HEIGHT + 34, "candidates, in the order proposed", "tick", "middle"))
    return parts


def _baseline_lines(record: Record, y: Scale) -> list[str]:
    rows = [row for row in record.baselines if not is_missing(row["scores"]["search"])]
    heights = [y(row["scores"]["search"]) for row in rows]
    parts = []
    for row, height, place in zip(rows, heights, spread_out(heights, 15, TOP, TOP + HEIGHT), strict=True):
        kind = BEST_BASELINE if row["label"] == record.result["best_baseline"] else ""
        end = LEFT + PLOT
        parts.append(line(LEFT, height, end, height, f"baseline {kind}"))
        parts.append(line(end, height, end + 10, place, f"lead {kind}"))
        label = f"{shorten(row['label'], 13)} {format_score(row['scores']['search'])}"
        parts.append(text(end + 14, place, label, f"label {kind}"))
    return parts


def _mark(candidate: CandidateScore, x: float, y: Scale, radius: float, winner: str) -> str:
    if is_missing(candidate.score):
        tip = f"candidate {candidate.number} failed: {candidate.error or 'not scored'}"
        return cross(x, TOP + HEIGHT, "failed", tip)
    tip = f"candidate {candidate.number}: {format_score(candidate.score)}"
    if candidate.key == winner:
        return dot(x, y(candidate.score), radius + 2.8, "winner", f"{tip}, the winner")
    kind = "candidate" if candidate.complete else "candidate dropped"
    tip = tip if candidate.complete else f"{tip}, estimated from the items scored"
    return dot(x, y(candidate.score), radius, kind, tip)


def _staircase(steps: Sequence[tuple[float, float]]) -> str:
    """The path data of a step line through the points."""
    if not steps:
        return "M0 0"
    (x, y), later = steps[0], steps[1:]
    return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in later)
