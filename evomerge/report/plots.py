"""The search curve and the holdout bars as PNG and SVG files for publications; needs the extra `plot`."""

import math
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError, remedy_for
from evomerge.report.record import BEST_BASELINE, Record, is_missing, read_record
from evomerge.report.svg import spread_out
from evomerge.run_files import refuse_misfits

COLOURS = {"winner": "#1f56c3", BEST_BASELINE: "#b25e09", "expert": "#8c95a6"}


def save_figures(folder: Path, out: Path) -> list[Path]:
    """Write search.{png,svg} and holdout.{png,svg} of a finished run into `out` and return the paths.

    ConfigError if matplotlib is not installed, RunError if the run is not finished or `out` cannot be written.
    """
    try:
        import matplotlib  # noqa: F401 (tests whether it is installed)
    except ImportError:
        raise ConfigError("figures need matplotlib; pip install 'evomerge[plot]'") from None
    record = read_record(folder)
    with refuse_misfits(folder):
        figures = {"search": search_figure(record), "holdout": holdout_figure(record)}
    return [path for name, figure in figures.items() for path in _save(figure, out, name)]


def search_figure(record: Record) -> Any:
    """A dot for each candidate in the order proposed, hollow if stopped early; lines for best so far and baselines."""
    figure, axes = _blank_figure(7.2, 3.8)
    best = record.best_so_far()
    for complete, fill, label in ((True, COLOURS["expert"], None), (False, "none", "stopped early, estimated")):
        if candidates := [candidate for candidate in record.candidates if candidate.complete is complete]:
            numbers, scores = [c.number for c in candidates], [c.score for c in candidates]
            axes.scatter(numbers, scores, s=12, edgecolors=COLOURS["expert"], facecolors=fill, label=label)
    axes.step(range(len(best)), best, where="post", color=COLOURS["winner"], label="best so far")
    for candidate in record.candidates:
        if candidate.key == record.result["winner"]["key"]:
            axes.scatter([candidate.number], [candidate.score], s=60, color=COLOURS["winner"], label="winner", zorder=3)
    axes.set(xlabel="candidates, in the order proposed", ylabel="score on search")
    axes.legend(frameon=False, loc="lower right")
    _draw_baselines(record, axes)
    return figure


def _draw_baselines(record: Record, axes: Any) -> None:
    """A line for each baseline, with labels that do not overlap."""
    rows = [row for row in record.baselines if not is_missing(row["scores"]["search"])]
    scores = [row["scores"]["search"] for row in rows]
    for score in scores:
        axes.axhline(score, color=COLOURS["expert"], linestyle=":", linewidth=1, zorder=0)
    low, high = axes.get_ylim()
    for row, score, place in zip(rows, scores, spread_out(scores, 0.05 * (high - low), low, high), strict=True):
        colour = COLOURS[BEST_BASELINE] if row["label"] == record.result["best_baseline"] else "#5b6270"
        text = f"{row['label']} {score:.3f}"
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour)


def holdout_figure(record: Record) -> Any:
    """The scores of the winner, the best baseline and each expert on the tasks of holdout."""
    models = record.compared_models()
    tasks = list(models[0].scores)
    figure, axes = _blank_figure(max(5.0, 1.3 * len(tasks)), 3.4)
    width = 0.84 / len(models)
    experts = max(1, len(models) - 2)
    for place, model in enumerate(models):
        values = [model.scores.get(task, math.nan) for task in tasks]
        heights = [0.0 if is_missing(value) else value for value in values]
        left = [i - 0.42 + place * width for i in range(len(tasks))]
        opacity = 1.0 if model.role != "expert" else 1.0 - 0.6 * (place - 2) / experts
        axes.bar(left, heights, width, align="edge", color=COLOURS[model.role], alpha=opacity, label=model.label)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylabel("score on holdout")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=len(models), fontsize=8)
    return figure


def _blank_figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # pyplot would open windows and keep global state

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, out: Path, name: str) -> list[Path]:
    from matplotlib import rc_context

    paths = [out / f"{name}.{kind}" for kind in ("png", "svg")]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.hashsalt": "evomerge"}):  # makes the bytes of the SVG reproducible
            figure.savefig(paths[0], dpi=160)
            figure.savefig(paths[1], metadata={"Date": None})
    except OSError as error:
        raise RunError(f"{out}: {error.strerror or error}; {remedy_for(error)} or choose another folder") from error
    return paths
