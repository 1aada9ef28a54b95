"""Tables and numbers in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; a cell's bars and line breaks are replaced, numbers have three decimals."""
    lines = [list(header), ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """One cell of a table; a dash for None."""
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2g}"
    return " ".join(str("–" if value is None else value).replace("|", "/").split())


def interval(found: Mapping[str, Any] | None) -> str:
    """[low, high] of a bootstrap interval."""
    return f"[{found['low']:.3f}, {found['high']:.3f}]" if found else "–"
