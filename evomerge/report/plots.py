"""The search curve and the holdout bars as PNG and SVG files, for papers and READMEs; needs the extra `plot`."""

import math
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError, remedy_for
from evomerge.report.record import Record, missing, read
from evomerge.report.svg import spread

COLOURS = {"winner": "#1f56c3", "rival": "#b25e09", "expert": "#8c95a6"}


def save_figures(folder: Path, out: Path) -> list[Path]:
    """Write search.{png,svg} and holdout.{png,svg} of a finished run into `out`; ConfigError without matplotlib."""
    try:
        import matplotlib  # noqa: F401 (only asked whether it is there)
    except ImportError:
        raise ConfigError("figures need matplotlib; pip install 'evomerge[plot]'") from None
    record = read(folder)
    figures = {"search": search_figure(record), "holdout": holdout_figure(record)}
    return [path for name, figure in figures.items() for path in _save(figure, out, name)]


def search_figure(record: Record) -> Any:
    """A dot for each candidate in the order asked, hollow where it stopped early; the best so far, the baselines."""
    figure, axes = _blank(7.2, 3.8)
    best = record.best_so_far()
    for whole, fill, label in ((True, COLOURS["expert"], None), (False, "none", "stopped early, estimated")):
        if points := [point for point in record.points if point.whole is whole]:
            numbers, scores = [p.number for p in points], [p.score for p in points]
            axes.scatter(numbers, scores, s=12, edgecolors=COLOURS["expert"], facecolors=fill, label=label)
    axes.step(range(len(best)), best, where="post", color=COLOURS["winner"], label="best so far")
    for point in record.points:
        if point.key == record.result["winner"]["key"]:
            axes.scatter([point.number], [point.score], s=60, color=COLOURS["winner"], label="winner", zorder=3)
    axes.set(xlabel="candidates, in the order asked", ylabel="score on search")
    axes.legend(frameon=False, loc="lower right")
    _baselines(record, axes)
    return figure


def _baselines(record: Record, axes: Any) -> None:
    """A labelled line for each baseline, the labels kept apart."""
    rows = [row for row in record.baselines if not missing(row["scores"]["search"])]
    scores = [row["scores"]["search"] for row in rows]
    for score in scores:
        axes.axhline(score, color=COLOURS["expert"], linestyle=":", linewidth=1, zorder=0)
    low, high = axes.get_ylim()
    for row, score, place in zip(rows, scores, spread(scores, 0.05 * (high - low), low, high), strict=True):
        colour = COLOURS["rival"] if row["label"] == record.result["best_baseline"] else "#5b6270"
        text = f"{row['label']} {score:.3f}"
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour)


def holdout_figure(record: Record) -> Any:
    """The winner, the best baseline and each expert on holdout, for each task."""
    contenders = record.contenders()
    tasks = list(contenders[0].scores)
    figure, axes = _blank(max(5.0, 1.3 * len(tasks)), 3.4)
    width = 0.84 / len(contenders)
    experts = max(1, len(contenders) - 2)
    for place, contender in enumerate(contenders):
        values = [contender.scores.get(task, math.nan) for task in tasks]
        heights = [0.0 if missing(value) else value for value in values]
        left = [i - 0.42 + place * width for i in range(len(tasks))]
        opacity = 1.0 if contender.role != "expert" else 1.0 - 0.6 * (place - 2) / experts
        axes.bar(
            left, heights, width, align="edge", color=COLOURS[contender.role], alpha=opacity, label=contender.label
        )
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("score on holdout")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=len(contenders), fontsize=8)
    return figure


def _blank(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, out: Path, name: str) -> list[Path]:
    from matplotlib import rc_context

    paths = [out / f"{name}.{kind}" for kind in ("png", "svg")]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.hashsalt": "evomerge"}):  # the same run gives the same bytes
            figure.savefig(paths[0], dpi=160)
            figure.savefig(paths[1], metadata={"Date": None})
    except OSError as error:
        raise RunError(f"{out}: {error.strerror or error}; {remedy_for(error)} or choose another folder") from error
    return paths
