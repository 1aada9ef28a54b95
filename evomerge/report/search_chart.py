"""Convergence: the score of each candidate and the best so far over the items spent; the losses of a descent."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair

from evomerge.report.figure import Figure
from evomerge.report.html_elements import Grid
from evomerge.report.marks import MOST_POINTS, Row, base, layered, thinned, tooltips, x_axis, y_axis
from evomerge.report.record import Record, is_missing
from evomerge.report.reproduce_section import shorten_paths
from evomerge.report.search_scores import CandidateScore
from evomerge.report.table import format_score

HEIGHT, LOSS_HEIGHT = 320, 200
SMOOTHED = 0.1  # the share of the steps whose mean the line of a descent shows
TIPS = {"candidate": "candidate", "score": "score*", "used": "items used", "items": "items so far"}
ITEMS = "items that candidates were scored on"


def search_figure(record: Record) -> Figure:
    """A point for each candidate at the items spent until it was scored, the best score so far, and the baselines."""
    rows = candidate_rows(record)
    best = record.best_so_far()
    scored = sum(row["score"] is not None for row in rows)
    start = " comes" if is_missing(best[0]) else f" rises from {format_score(best[0])} of the best baseline"
    spent = rows[-1]["items"] if rows else 0
    description = (
        f"{scored} of {len(rows)} candidates scored on {spent} items; "
        f"the best score{start} to {format_score(best[-1])}."
    )
    cells = [[str(row[name]) if name != "score" else format_score(_score(row)) for name in HEADS] for row in rows]
    grid = Grid(("candidate", "state", "score", "items used", "items so far"), cells)
    return Figure("search", "Score over items", description, _chart(record, rows), grid, _legend(rows))


HEADS = ("candidate", "state", "score", "used", "items")


def candidate_rows(record: Record) -> list[Row]:
    """A row for each candidate in the order proposed, with the items that it and all before it were scored on."""
    rows: list[Row] = []
    spent = 0
    for candidate in record.candidates:
        spent += candidate.items
        score = None if is_missing(candidate.score) else candidate.score
        state = _state(candidate, record.result["winner"]["key"])
        numbers = {"candidate": candidate.number, "items": spent, "used": candidate.items}
        rows.append(
            {**numbers, "score": score, "state": state, "reason": shorten_paths(candidate.error or "not scored")}
        )
    return rows


def best_rows(record: Record) -> list[Row]:
    """The best score so far after 0, 1, 2 … candidates, by items; steps without a score are left out.

    Of very many candidates only the first, the last and those that improve the score have a row.
    """
    items = [0, *(int(row["items"] or 0) for row in candidate_rows(record))]
    best = [(spent, score) for spent, score in zip(items, record.best_so_far(), strict=True) if not is_missing(score)]
    if len(best) > MOST_POINTS:
        best = [best[0], *(after for before, after in pairwise(best) if after[1] > before[1]), best[-1]]
    return [{"items": spent, "best": score} for spent, score in best]


def _state(candidate: CandidateScore, winner: str) -> str:
    if is_missing(candidate.score):
        return "failed"
    if candidate.key == winner:
        return "winner"
    return "scored" if candidate.complete else "stopped early, estimated"


def _score(row: Row) -> float | None:
    return None if row["score"] is None else float(row["score"])


def _legend(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    states = {row["state"] for row in rows}
    keys = [("expert", "●", f"candidate{_drawn(rows)}"), ("winner", "━", "best so far")]
    keys += [("winner", "◆", "winner, selected on select")] * ("winner" in states)
    keys += [("baseline", "╍", "best baseline on holdout"), ("expert", "┈", "other baselines")]
    if "stopped early, estimated" in states:
        keys.append(("expert", "○", "stopped early: score estimated from the items scored"))
    return [*keys, ("failed", "✕", "failed")] if "failed" in states else keys


def _drawn(rows: Sequence[Row]) -> str:
    """The words that say that not every candidate has a mark; empty where each has one."""
    most = max(Counter(row["state"] for row in rows).values(), default=0)
    return f" (a sample of at most {MOST_POINTS:,} of each kind)" * (most > MOST_POINTS)


def _chart(record: Record, rows: Sequence[Row]) -> altair.LayerChart:
    by_state: dict[str, list[Row]] = {}
    for row in rows:
        by_state.setdefault(str(row["state"]), []).append(row)
    x, y = x_axis("items", ITEMS), y_axis("score", "score on search")
    small = 30 if len(rows) <= 300 else 14
    marks: Mapping[str, Mapping[str, Any]] = {
        "scored": {"style": "expert", "shape": "circle", "size": small + 12, "filled": True, "opacity": 0.8},
        "stopped early, estimated": {"style": "expert", "shape": "circle", "size": small, "filled": False},
        "winner": {"style": "winner", "shape": "diamond", "size": 170, "filled": True, "opacity": 1.0},
    }
    layers: list[altair.Chart] = [*_baseline_layers(record)]
    line = altair.MarkDef(type="line", style="winner", interpolate="step-after", strokeWidth=2)
    best = base(best_rows(record)).encode(x=x, y=y_axis("best", "score on search"))
    layers.append(best.properties(mark=line))
    for state, mark in marks.items():
        points = base(thinned(by_state.get(state, ()))).encode(x=x, y=y, tooltip=tooltips({**TIPS, "state": "state"}))
        layers.append(points.properties(mark=altair.MarkDef(type="point", **mark)))
    failed = base(thinned(by_state.get("failed", ())))
    crosses = failed.mark_point(style="failed", shape="cross", angle=45, size=50, filled=True)
    tips = tooltips({"candidate": "failed candidate", "reason": "reason"})
    layers.append(crosses.encode(x=x, y=altair.value(HEIGHT), tooltip=tips))
    return layered(layers, HEIGHT)


def _baseline_layers(record: Record) -> list[altair.Chart]:
    """A horizontal line for each baseline; that of the best one has a label."""
    best = record.result["best_baseline"]
    scores = {row["label"]: row["scores"]["search"] for row in record.baselines}
    rows: list[Row] = [{"label": label, "score": score} for label, score in scores.items() if not is_missing(score)]
    y, tips = y_axis("score", "score on search"), tooltips({"label": "baseline", "score": "score*"})
    others = base(row for row in rows if row["label"] != best).mark_rule(style="expert", strokeDash=[2, 4])
    leader = base(row for row in rows if row["label"] == best)
    rule = leader.mark_rule(style="baseline", strokeDash=[6, 4], strokeWidth=1.5)
    text = leader.mark_text(style="baseline", align="right", baseline="bottom", dx=-4, dy=-3)
    label = text.encode(x=altair.value("width"), y=y, text=altair.Text(field="label", type="nominal"))
    return [others.encode(y=y, tooltip=tips), rule.encode(y=y, tooltip=tips), label]


def descent_figure(losses: Sequence[float]) -> Figure:
    """A point for the loss of each step of a descent, and the mean of the last steps as a line."""
    means = running_means(losses)
    rows: list[Row] = [
        {"step": step, "loss": loss, "mean": mean}
        for step, (loss, mean) in enumerate(zip(losses, means, strict=True), 1)
    ]
    x, tips = x_axis("step", "steps"), tooltips({"step": "step", "loss": "loss*", "mean": "mean of the last steps*"})
    points = (
        base(rows).mark_point(style="expert", size=24, filled=False).encode(x=x, y=y_axis("loss", "loss"), tooltip=tips)
    )
    line = base(rows).mark_line(style="winner", strokeWidth=2).encode(x=x, y=y_axis("mean", "loss"))
    chart = layered([points, line], LOSS_HEIGHT)
    description = f"{len(losses)} steps; the loss goes from {format_score(losses[0])} to {format_score(means[-1])}."
    cells = [
        (str(row["step"]), format_score(loss), format_score(mean))
        for row, loss, mean in zip(rows, losses, means, strict=True)
    ]
    keys = (("expert", "○", "items of a step"), ("winner", "━", "mean of the last steps"))
    return Figure("descent", "Loss of each step", description, chart, Grid(("step", "loss", "mean"), cells), keys)


def running_means(losses: Sequence[float]) -> list[float]:
    """The mean of each loss and of those before it, as many as SMOOTHED of all."""
    width = max(1, math.ceil(SMOOTHED * len(losses)))
    windows = (losses[max(0, end - width) : end] for end in range(1, len(losses) + 1))
    return [math.fsum(window) / len(window) for window in windows]
