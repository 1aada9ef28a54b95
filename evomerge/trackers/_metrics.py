"""The numbers and tables that trackers get, made of a generation, of result.json and of the configuration."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evomerge.searching import Leaderboard

Table = Sequence[Sequence[str | float]]  # rows of cells; the first row is the heads
INTERVAL_HEADS = ("difference", "low", "high")


def generation_metrics(
    board: Leaderboard, scores: Sequence[float], evaluations: int, items: float, best_baseline: float
) -> dict[str, float]:
    """The numbers of a generation; those that are unknown, such as the mean of failures only, are left out."""
    scored = [score for score in scores if not math.isnan(score)]
    best = board.best()
    best_score = best[1] if best else math.nan
    metrics = {
        "search/best": best_score,
        "search/best_baseline": best_baseline,
        "search/over_best_baseline": best_score - best_baseline,
        "search/generation_best": max(scored, default=math.nan),
        "search/generation_mean": sum(scored) / len(scored) if scored else math.nan,
        "search/evaluations": float(evaluations),
        "search/items": items,
        "search/failed": float(board.failed),
        "search/stopped_early": float(board.stopped_count),
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def holdout_table(document: Mapping[str, Any]) -> list[list[str | float]]:
    """A row of heads, then one per model: label, holdout score, task scores, and the winner's lead with its interval.

    NaN where the model failed, or where there is no comparison, as in the winner's own row.
    """
    tasks = list(document["rows"][-1]["tasks"])
    comparisons = {each["label"]: each for each in document.get("comparisons", ())}
    table: list[list[str | float]] = [["model", "holdout", *tasks, *INTERVAL_HEADS]]
    for row in document["rows"]:
        is_winner = row["role"] == "winner"
        lead = {} if is_winner else comparisons.get(row["label"], {})
        bounds = lead.get("interval") or {}
        cells = [row["scores"]["holdout"], *(row["tasks"].get(task) for task in tasks)]
        cells += [lead.get("difference"), bounds.get("low"), bounds.get("high")]
        table.append(["winner" if is_winner else row["label"], *(math.nan if c is None else float(c) for c in cells)])
    return table


def result_metrics(table: Table) -> dict[str, float]:
    """The numbers of a holdout table by name, without those that are NaN: scores, and the winner's leads."""
    heads, *rows = table
    named = {
        f"holdout/{row[0]}" if head == "holdout" else f"holdout/{head}/{row[0]}": float(value)
        for row in rows
        for head, value in zip(heads[1:], row[1:], strict=True)
    }
    return {name: value for name, value in named.items() if not math.isnan(value)}


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a configuration as (path of keys, text), such as `("budget.items", "5000")`."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
