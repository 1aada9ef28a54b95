"""The rows of a GPU's measurement as Markdown, ready for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
HEAD = "| case | contestant | seconds | × ours | rate | of a copy | first s | peak GB (plan) | bytes as on the CPU |"


def page(environment: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The machine in one line, the speeds, then the checks; failures first."""
    machine = ", ".join(f"{key} {value}" for key, value in environment.items() if value is not None)
    speeds = [row for row in rows if row.get("seconds") is not None]
    checks = sorted((row for row in rows if row.get("seconds") is None), key=lambda row: row.get("ok") is not False)
    failed = sum(row.get("ok") is False for row in rows)
    parts = [machine + ".", ""]
    if speeds:
        parts += [HEAD, "|---" * HEAD.count(" | ") + "|---|", *map(_speed, speeds), ""]
    parts.append(f"{sum(row.get('ok') is True for row in checks)} checks passed, {failed} failed.")
    parts += ["", "| check | result |", "|---|---|", *map(_check, checks)]
    return "\n".join(parts) + "\n"


def _speed(row: Row) -> str:
    low, high = row["spread"]
    peak, plan = row.get("peak_gb"), row.get("planned_gb")
    cells = [
        row["case"],
        row["name"],
        f"{row['seconds']:.3g} [{low:.3g}–{high:.3g}]",
        "" if row.get("ratio") is None else f"{row['ratio']:.3g}",
        "" if row.get("rate") is None else f"{row['rate']:.3g} {row['unit']}",
        "" if row.get("share") is None else f"{row['share']:.0%}",
        "" if row.get("first_seconds") is None else f"{row['first_seconds']:.3g}",
        "" if peak is None else f"{peak:g}" + ("" if plan is None else f" ({plan:g})"),
        row.get("bytes") or "",
    ]
    return f"| {' | '.join(cells)} |"


def _check(row: Row) -> str:
    verdict = {True: "", False: "**failed**: ", None: ""}[row.get("ok")]
    return f"| {row['case']} | {verdict}{row.get('note') or row.get('name') or ''} |".replace("\n", " ")
