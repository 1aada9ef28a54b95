"""Several objectives: each pair of them as a scatter plot, and all of them as parallel coordinates."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import altair

from evomerge.report.figure import NARROW, Figure, figure_html, legend_html
from evomerge.report.html_elements import Grid, section
from evomerge.report.marks import MOST_POINTS, Row, base, layered, thinned, tooltips, x_axis, y_axis
from evomerge.report.record import Record, is_missing
from evomerge.report.table import format_score

MAX_PAIRS = 6  # of objectives that have a chart
SIDE, HEIGHT = 270, 280
MARKS: Mapping[str, Mapping[str, Any]] = {  # the later ones are on top
    "candidate": {"style": "expert", "shape": "circle", "size": 20, "filled": True, "opacity": 0.7},
    "baseline": {"style": "baseline", "shape": "square", "size": 60, "filled": True, "opacity": 1.0},
    "member of the front": {"style": "member", "shape": "triangle-up", "size": 90, "filled": True, "opacity": 1.0},
    "winner": {"style": "winner", "shape": "diamond", "size": 190, "filled": True, "opacity": 1.0},
}
LINES: Mapping[str, Mapping[str, Any]] = {
    "candidate": {"style": "expert", "strokeWidth": 0.7, "opacity": 0.35},
    "baseline": {"style": "baseline", "strokeWidth": 1.5, "strokeDash": [5, 4]},
    "member of the front": {"style": "member", "strokeWidth": 1.8},
    "winner": {"style": "winner", "strokeWidth": 3.5},
}
KEYS = (
    ("expert", "●", "candidate"),
    ("baseline", "■", "baseline"),
    ("member", "▲", "member of the front"),
    ("winner", "◆", "winner"),
)
LINE_KEYS = (
    ("expert", "─", "candidate"),
    ("baseline", "╍", "baseline"),
    ("member", "━", "member of the front"),
    ("winner", "━", "winner"),
)
TIPS = {"model": "model", "kind": "kind", "task": "task", "score": "score*"}
NOTE = (
    f"Scores on the search slice; of more than {MOST_POINTS:,} candidates a sample is drawn. The members of the front "
    "are not dominated on select; their recipes are in front/ in the run's folder. The winner is the knee of the "
    "front: its loss against the best score, in units of each objective's range on the front, is smallest in the worst "
    "objective."
)


def front_section(record: Record) -> str:
    """The charts of the Pareto front; empty for a single objective."""
    figures = front_figures(record)
    if not figures:
        return ""
    *pairs, parallel = map(figure_html, figures)
    scatters = f'<div class="multiples">{"".join(pairs)}</div>{legend_html(KEYS)}'
    return section("Front", NOTE, f"{scatters}{parallel}")


def front_figures(record: Record) -> list[Figure]:
    """A scatter plot for each pair of objectives, then the parallel coordinates; empty for a single objective."""
    front = record.result["front"]
    if not front:
        return []
    tasks, points = list(front["tasks"]), _drawn(list(_points(record)), MOST_POINTS)
    pairs = list(combinations(tasks, 2))[:MAX_PAIRS]
    scatters = [_scatter(points, x, y, f"front-{place}") for place, (x, y) in enumerate(pairs)]
    return [*scatters, _parallel(_drawn(points, 2 * MOST_POINTS // len(tasks)), tasks)]


def _points(record: Record) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    """Name, kind and scores of every baseline and complete candidate."""
    members, winner = {row["key"] for row in record.result["front"]["members"]}, record.result["winner"]["key"]
    keys = {row["label"]: row["key"] for row in record.baselines}
    for label, fitness in record.baseline_fitness.items():
        kind = "member of the front" if keys[label] in members else "baseline"
        yield label, "winner" if keys[label] == winner else kind, fitness.values
    for candidate in record.candidates:
        if candidate.complete and not is_missing(candidate.score):
            kind = "member of the front" if candidate.key in members else "candidate"
            floor = f", breaks a floor by {candidate.fitness.violation:.4f}" * bool(candidate.fitness.violation)
            name = f"candidate {candidate.number}{floor}"
            yield name, "winner" if candidate.key == winner else kind, candidate.fitness.values


Points = Sequence[tuple[str, str, Mapping[str, float]]]


def _drawn(points: Points, most: int) -> Points:
    """All baselines and members of the front, and the candidates, or an equal sample of `most` of them."""
    others = [point for point in points if point[1] != "candidate"]
    return [*others, *thinned([point for point in points if point[1] == "candidate"], most)]


def _scatter(points: Points, x: str, y: str, name: str) -> Figure:
    rows: list[Row] = [{"model": one, "kind": kind, "x": v[x], "y": v[y]} for one, kind, v in points]
    tips = tooltips({"model": "model", "kind": "kind", "x": f"{x}*", "y": f"{y}*"})
    layers = []
    for kind, mark in MARKS.items():
        part = base(row for row in rows if row["kind"] == kind).encode(x=x_axis("x", x), y=y_axis("y", y), tooltip=tips)
        layers.append(part.properties(mark=altair.MarkDef(type="point", **mark)))
    chart = layered(layers, SIDE)
    description = _describe(points, f"{x} to the right and {y} upwards")
    return Figure(name, f"{x} and {y}", description, chart, _grid(points, (x, y)), width=NARROW)


def _parallel(points: Points, tasks: Sequence[str]) -> Figure:
    """A line for each model over all objectives, each from its worst to its best score."""
    ranges = {task: sorted(values[task] for _, _, values in points) for task in tasks}
    rows: list[Row] = [
        {"model": name, "kind": kind, "task": task, "score": values[task], "place": _share(values[task], ranges[task])}
        for name, kind, values in points
        for task in tasks
    ]
    axis, scale = altair.Axis(labelAngle=0, grid=True), altair.Scale(type="point", padding=0.3)
    x = altair.X(field="task", type="nominal", sort=list(tasks), title=None, axis=axis, scale=scale)
    y, tips = y_axis("place", "worst (0) to best (1)"), tooltips(TIPS)
    layers = []
    for kind, mark in LINES.items():
        part = base(row for row in rows if row["kind"] == kind).encode(x=x, y=y, detail="model:N", tooltip=tips)
        layers.append(part.properties(mark=altair.MarkDef(type="line", **mark)))
    chart = layered(layers, HEIGHT)
    words = f"one line for each, over {', '.join(tasks)}"
    return Figure("parallel", "All objectives", _describe(points, words), chart, _grid(points, tasks), LINE_KEYS)


def _share(value: float, ordered: Sequence[float]) -> float:
    return (value - ordered[0]) / ((ordered[-1] - ordered[0]) or 1.0)


def _describe(points: Points, words: str) -> str:
    kinds = [kind for _, kind, _ in points]
    members = kinds.count("member of the front") + kinds.count("winner")
    return f"{len(points)} candidates and baselines, {words}; {members} of them form the front."


def _grid(points: Points, tasks: Sequence[str]) -> Grid:
    rows = [(name, kind, *(format_score(values[task]) for task in tasks)) for name, kind, values in points]
    return Grid(("model", "kind", *tasks), rows)
