"""The section of the HTML report that says which experts were merged, and why the others were not."""

from html import escape

from evomerge.report.html_elements import scrollable, section
from evomerge.report.record import Record
from evomerge.screening import screening_rows

NOTE = (
    "Scores of each expert alone on the search slice, its task vector, its largest gain over the base, and what the "
    "merge of the remaining experts loses without it (95% intervals)."
)


def screening_section(record: Record) -> str:
    """The table of a screening; empty without one."""
    found = record.result.get("screen")
    if not found:
        return ""
    heads, rows = screening_rows(found)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return section("Choice of experts", NOTE, scrollable(table, "screening"))
