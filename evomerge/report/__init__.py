"""What a person sees of a run: the terminal, the tables, the HTML report and the figures.

The room reads a run's files or listens to a search; it decides nothing. The rule: a number is shown as the files have
it, and the HTML report needs no network and no other file.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.report.console import Display
    from evomerge.report.html import write_report
    from evomerge.report.narrow import print_table
    from evomerge.report.plots import save_figures
    from evomerge.report.runs import compare_runs
    from evomerge.report.status import SearchStatus
    from evomerge.report.table import comparison_table, result_table, standing_row
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "Display",
    "SearchStatus",
    "compare_runs",
    "comparison_table",
    "print_table",
    "result_table",
    "save_figures",
    "standing_row",
    "write_report",
]
