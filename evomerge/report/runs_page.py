"""Several runs side by side as one HTML page: their tables, and charts of the same kind as in a run's report."""

from collections.abc import Mapping
from html import escape
from itertools import cycle, islice
from pathlib import Path

import altair

from evomerge.atomic import write_atomically
from evomerge.report.figure import Figure, figure_html
from evomerge.report.html_elements import Grid, section, table
from evomerge.report.marks import Row, base, layered, names_axis, tooltips, x_axis, y_axis
from evomerge.report.page import page
from evomerge.report.record import is_missing, read_record
from evomerge.report.reproduce_section import shorten_paths
from evomerge.report.runs import RunComparison, RunSummary
from evomerge.report.search_chart import ITEMS, best_rows
from evomerge.report.table import format_difference, format_score
from evomerge.run_files import refuse_misfits

FOOTER = "Made by evomerge from config.yaml, trials.jsonl, recipe.yaml and result.json of these runs."
DASHES = ([1, 0], [6, 3], [2, 3], [8, 3, 2, 3])  # as there are more runs than colours that everyone can tell apart
HEIGHT, ROW = 320, 26


def write_runs_page(comparison: RunComparison, path: Path) -> Path:
    """Write the page of several runs; RunError if one of the finished runs is damaged."""
    title = f"{len(comparison.runs)} runs"
    notes = "".join(f'<p class="note">{escape(line)}</p>' for line in comparison.warnings())
    parts = [f"<header><h1>{title}</h1>{notes}</header>"]
    parts += [section(name, "", table(_shortened(grid), name)) for name, grid in comparison.grids()]
    if any(run.result is not None for run in comparison.runs):
        parts.append(_charts(comparison))
    write_atomically(path, page(title, "\n".join(parts), FOOTER))
    return path


def _charts(comparison: RunComparison) -> str:
    runs = {name: run for name, run in zip(comparison.names(), comparison.runs, strict=True) if run.result is not None}
    figures = "".join(map(figure_html, (convergence_figure(runs), difference_figure(runs))))
    return section("Side by side", "Each finished run has one colour, with one pattern of dashes.", figures)


def convergence_figure(runs: Mapping[str, RunSummary]) -> Figure:
    """The best score so far on search over the items that candidates were scored on, a line for each run."""
    layers, cells = [], []
    x, y = x_axis("items", ITEMS), y_axis("best", "best score on search")
    colours = altair.Scale(domain=list(runs))
    colour = altair.Color(field="run", type="nominal", title=None, scale=colours, legend=_legend())
    dashes = list(islice(cycle(DASHES), len(runs)))
    patterns = altair.Scale(domain=list(runs), range=dashes)
    dash = altair.StrokeDash(field="run", type="nominal", title=None, scale=patterns, legend=_legend())
    tips = tooltips({"run": "run", "items": "items", "best": "best so far*"})
    for name, run in runs.items():
        record = read_record(run.folder)
        with refuse_misfits(run.folder):
            rows = [{**row, "run": name} for row in best_rows(record)]
        line = base(rows).mark_line(interpolate="step-after", strokeWidth=2)
        layers.append(line.encode(x=x, y=y, color=colour, strokeDash=dash))
        layers.append(base(rows).mark_point(size=70, opacity=0, filled=True).encode(x=x, y=y, tooltip=tips))
        last = rows[-1] if rows else {"items": 0}
        cells.append((name, str(last["items"]), format_score(record.best_so_far()[-1])))
    words = "; ".join(f"{name} {best} after {items} items" for name, items, best in cells)
    grid = Grid(("run", "items", "best score on search"), cells)
    return Figure("runs-search", "Best so far", f"{words}.", layered(layers, HEIGHT), grid)


def difference_figure(runs: Mapping[str, RunSummary]) -> Figure:
    """How much better than its best baseline the winner of each run is on holdout, with the interval."""
    rows: list[Row] = []
    for name, run in runs.items():
        interval = (run.result or {}).get("interval")
        if interval and not is_missing(run.ahead):
            bounds = {"low": interval["low"], "high": interval["high"]}
            rows.append({"run": name, "ahead": run.ahead, **bounds, "verdict": run.outcome})
    y = names_axis("run", [str(row["run"]) for row in rows])
    tips = tooltips({"run": "run", "ahead": "ahead by*", "low": "from*", "high": "to*", "verdict": "verdict"})
    title = "winner ahead of the best baseline, on holdout"
    rule = base(rows).mark_rule(style="ink", strokeWidth=1.5)
    point = base(rows).mark_point(style="winner", shape="diamond", filled=True, size=110)
    zero = base([{"ahead": 0}]).mark_rule(style="baseline", strokeDash=[6, 4]).encode(x=x_axis("ahead", title))
    ends = rule.encode(x=x_axis("low", title), x2=altair.X2(field="high"), y=y, tooltip=tips)
    layers = [zero, ends, point.encode(x=x_axis("ahead", title), y=y, tooltip=tips)]
    cells = [(name, format_difference(run.result or {}), run.outcome) for name, run in runs.items()]
    words = "; ".join(f"{name} {difference}, {verdict}" for name, difference, verdict in cells)
    grid = Grid(("run", "winner ahead by", "verdict"), cells)
    return Figure(
        "runs-holdout", "Winner against the best baseline", f"{words}.", layered(layers, ROW * len(rows)), grid
    )


def _legend() -> altair.Legend:
    return altair.Legend(orient="bottom", title=None, direction="vertical", labelLimit=280, symbolType="stroke")


def _shortened(grid: Grid) -> Grid:
    return Grid(grid.heads, [[shorten_paths(cell) for cell in row] for row in grid.rows])
