"""The section of the HTML report that says which experts were merged, and why the others were not."""

from evomerge.report.html_elements import Grid, section, table
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
    return section("Choice of experts", NOTE, table(Grid(heads, rows), "screening"))
