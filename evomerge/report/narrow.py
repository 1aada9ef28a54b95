"""Tables on a terminal that is too narrow for them: as several tables with the same first column."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Column, Table


def print_table(console: Console, table: Table) -> None:
    """Print a table; where it is wider than the console, its columns are printed in turns, the caption at the end."""
    columns = table.columns
    parts = list(_parts(console, table, columns)) if len(columns) > 2 else [columns]
    for number, chosen in enumerate(parts):
        is_last = number == len(parts) - 1
        console.print(table if len(parts) == 1 else _table(table, chosen, is_last))


def _parts(console: Console, table: Table, columns: Sequence[Column]) -> Iterator[list[Column]]:
    """As many columns as fit, each time with the first one."""
    first, *others = columns
    part = [first]
    for column in others:
        if len(part) > 1 and _width(console, _table(table, [*part, column], False)) > console.width:
            yield part
            part = [first]
        part.append(column)
    yield part


def _width(console: Console, table: Table) -> int:
    wide = console.options.update(max_width=10_000)
    return measure_renderables(console, wide, [table]).maximum


def _table(table: Table, columns: Sequence[Column], is_last: bool) -> Table:
    """A table of these columns, with the styles of its rows."""
    made = Table(caption=table.caption if is_last else None, caption_justify="left", caption_style="")
    for column in columns:
        made.add_column(column.header, justify=column.justify, style=column.style, no_wrap=True)
    for row, *cells in zip(table.rows, *(column.cells for column in columns), strict=True):
        made.add_row(*cells, style=row.style)
    return made
