"""Tables on a terminal that is too narrow for them: as several tables with the same first column."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Column, Table


def print_table(console: Console, table: Table) -> None:
    """Print a table; if it is too wide, as tables of some of its columns, with title above and caption below."""
    parts = list(_parts(console, table))
    if len(parts) == 1:
        console.print(table)
        return
    if table.title:
        console.print(table.title, highlight=False)
    for columns in parts:
        console.print(_table(table, columns))
    if table.caption:
        console.print(table.caption, highlight=False)


def _parts(console: Console, table: Table) -> Iterator[list[Column]]:
    """As many columns as fit, each time with the first one."""
    first, *others = table.columns
    part = [first]
    for column in others:
        if len(part) > 1 and _width(console, _table(table, [*part, column])) > console.width:
            yield part
            part = [first]
        part.append(column)
    yield part


def _width(console: Console, table: Table) -> int:
    wide = console.options.update(max_width=10_000)
    return measure_renderables(console, wide, [table]).maximum


def _table(table: Table, columns: Sequence[Column]) -> Table:
    """A table of these columns, with the styles of its rows, without the caption."""
    made = Table()
    for column in columns:
        made.add_column(column.header, justify=column.justify, style=column.style, no_wrap=True)
    for row, *cells in zip(table.rows, *(column.cells for column in columns), strict=True):
        made.add_row(*cells, style=row.style)
    return made
