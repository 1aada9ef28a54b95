"""The building blocks of the page: everything that is text is escaped here."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any


def fact_table(facts: Mapping[str, Any]) -> str:
    """Names and values in two columns."""
    rows = (
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>'


def plain(value: Any) -> str:
    """A setting in a sentence."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def section(title: str, note: str, inner: str, name: str = "") -> str:
    """A part of the page with its heading and a sentence about it, and a name to find it by."""
    lead = f"<p>{escape(note)}</p>\n" if note else ""
    mark = f' id="{name}"' if name else ""
    return f"<section{mark}>\n<h2>{escape(title)}</h2>\n{lead}{inner}\n</section>"


def wide(inner: str, label: str) -> str:
    """A part that may be wider than a phone: it scrolls by itself, by keyboard too."""
    return f'<div class="wide" role="region" aria-label="{escape(label)}" tabindex="0">{inner}</div>'


def details(summary: str, inner: str) -> str:
    """A part that opens when asked."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"
