"""The HTML elements that the report's sections are made of; all text is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Grid:
    """A table as text: column heads, and rows of as many cells. The first cell of a row is its head."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def table(grid: Grid, label: str, kinds: Sequence[str] = ()) -> str:
    """The table in an element that scrolls; `kinds` has the CSS class of each row."""
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in grid.heads)
    rows = []
    for place, (first, *cells) in enumerate(grid.rows):
        kind = f' class="{escape(kinds[place])}"' if kinds and kinds[place] else ""
        body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr{kind}><th scope="row">{escape(first)}</th>{body}</tr>')
    return scrollable(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>", label)


def fact_table(facts: Mapping[str, Any]) -> str:
    """A table of names and values in two columns."""
    rows = (
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>'


def format_value(value: Any) -> str:
    """A setting as it is shown in a sentence or a cell; lists are joined by commas."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def section(title: str, note: str, inner: str, name: str = "") -> str:
    """A section with its heading, a note below it and, if `name` is given, an id."""
    lead = f"<p>{escape(note)}</p>\n" if note else ""
    mark = f' id="{name}"' if name else ""
    return f"<section{mark}>\n<h2>{escape(title)}</h2>\n{lead}{inner}\n</section>"


def scrollable(inner: str, label: str) -> str:
    """An element that scrolls, with mouse or keyboard, if it is larger than its place."""
    return f'<div class="wide" role="region" aria-label="{escape(label)}" tabindex="0">{inner}</div>'


def preformatted(text: str, label: str) -> str:
    """A text in its own lines, which scrolls sideways with mouse or keyboard."""
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}"><code>{escape(text)}</code></pre>'


def details(summary: str, inner: str) -> str:
    """An element that is closed until the reader clicks its summary."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"
