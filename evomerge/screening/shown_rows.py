"""The record of a screening as rows of text, as a table for the terminal, and as lines for a log."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

MOST_TASKS = 8  # columns; with more tasks only the mean is shown
TEXTS = ("expert", "", "why")  # columns of words


def screening_rows(record: Mapping[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """The heads and the cells: scores of each expert alone, its task vector, what it adds, and why it stays or leaves.

    The base is first, then come the experts that stay.
    """
    tasks = list(record["base"]) if len(record["base"]) <= MOST_TASKS else []
    heads = ("expert", *tasks, "mean", "‖δ‖/‖base‖", "largest gain", "in the merge", "", "why")
    base = ("base", *(f"{record['base'][task]:.3f}" for task in tasks), f"{record['base_score']:.3f}", *[""] * 5)
    rows: list[Sequence[str]] = [base]
    for row in _kept_first(record):
        cells = [f"{row['tasks'][task]:.3f}" if "tasks" in row else "–" for task in tasks]
        score = f"{row['score']:.3f}" if "score" in row else "–"
        gain = f"{row['best_task']} {_gain(row['gain'])}" if "gain" in row else "–"
        shown = (row["label"], *cells, score, f"{row['norm']:.3g}", gain, _gain(row.get("contribution")))
        rows.append((*shown, _verdict(row), row["reason"]))
    return heads, rows


def screening_table(record: Mapping[str, Any]) -> Table:
    """The rows as a table for the terminal, without the reasons, which `screening_lines` has."""
    heads, rows = screening_rows(record)
    table = Table()
    for head in heads[:-1]:
        table.add_column(head, justify="left" if head in TEXTS else "right")
    for row in rows:
        table.add_row(*row[:-1])
    return table


def screening_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The number of experts that stay, then a line for each expert."""
    yield f"screen    {summary(record)}"
    for row in _kept_first(record):
        yield f"{_verdict(row):<9} {row['label']}: {row['reason']}"


def summary(record: Mapping[str, Any]) -> str:
    """The experts that stay, in one line."""
    return f"{len(record['kept'])} of {len(record['rows'])} experts stay: {', '.join(record['kept'])}"


def _kept_first(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(record["rows"], key=lambda row: not row["kept"])


def _verdict(row: Mapping[str, Any]) -> str:
    return "stays" if row["kept"] else "leaves"


def _gain(gain: Mapping[str, float | None] | None) -> str:
    if gain is None or gain["difference"] is None:
        return "–"
    return f"{gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
