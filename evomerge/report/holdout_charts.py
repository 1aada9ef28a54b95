"""The scores on holdout as bars: one chart for each task, with confidence intervals."""

from collections.abc import Sequence

import altair

from evomerge.report.figure import NARROW, Figure
from evomerge.report.html_elements import Grid
from evomerge.report.marks import Row, bar_axis, base, layered, names_axis, tooltips
from evomerge.report.record import ComparedModel, Record, is_missing
from evomerge.report.table import format_score

MAX_TASKS = 24  # that have a chart
BAR = 24  # pixels
STYLES = {"winner": "winner", "best-baseline": "baseline", "expert": "expert"}
TIPS = {"model": "model", "score": "score*", "low": "interval from*", "high": "interval to*"}


def task_figures(record: Record) -> list[Figure]:
    """The winner, the best baseline and each expert on holdout: all tasks together, then each task."""
    models = record.compared_models()
    tasks = list(models[0].scores)[: MAX_TASKS + 1]
    return [task_figure(task, models, f"task-{place}") for place, task in enumerate(tasks)]


def task_figure(task: str, models: Sequence[ComparedModel], name: str) -> Figure:
    """The models' scores on one task as bars, with their intervals where they have one."""
    rows: list[Row] = []
    for model in models:
        low, high = model.intervals.get(task, (None, None))
        score = model.scores.get(task)
        shown = None if score is None or is_missing(score) else score
        text = format_score(shown)
        rows.append({"model": model.label, "role": model.role, "score": shown, "low": low, "high": high, "text": text})
    cells = [(str(row["model"]), str(row["text"]), format_interval(row["low"], row["high"])) for row in rows]
    words = (f"{label} {score}{f' ({interval})' * bool(interval)}" for label, score, interval in cells)
    grid = Grid(("model", "score", "95% interval"), cells)
    description = f"Holdout score on {task}: {'; '.join(words)}."
    return Figure(name, task, description, _bars(rows), grid, width=NARROW)


def format_interval(low: object, high: object) -> str:
    """The bounds of an interval as a cell; empty without them."""
    return f"{low:.4f} … {high:.4f}" if isinstance(low, float) and isinstance(high, float) else ""


def _bars(rows: Sequence[Row]) -> altair.LayerChart:
    order = list(dict.fromkeys(str(row["model"]) for row in rows))
    numbers = [0.0, *(float(row[end] or 0.0) for row in rows for end in ("score", "low", "high"))]
    low, high = min(numbers), max(numbers)
    high = 1.0 if low == 0.0 and high <= 1.0 else high
    high = high if high > low else low + 1.0
    y = names_axis("model", order)
    layers = []
    for role, style in STYLES.items():
        bars = base(row for row in rows if row["role"] == role).mark_bar(style=style, height=BAR - 8, cornerRadiusEnd=2)
        layers.append(bars.encode(x=bar_axis("score", "", low, high), y=y, tooltip=tooltips(TIPS)))
    bounded = base({**row, "end": max(float(row["high"] or 0.0), float(row["score"] or 0.0))} for row in rows)
    rules = bounded.mark_rule(style="ink", strokeWidth=1.5)
    layers.append(rules.encode(x=bar_axis("low", "", low, high), x2=altair.X2(field="high"), y=y))
    texts = bounded.mark_text(style="ink", align="left", dx=6)
    text = altair.Text(field="text", type="nominal")
    layers.append(texts.encode(x=bar_axis("end", "", low, high), y=y, text=text))
    return layered(layers, BAR * len(order))
