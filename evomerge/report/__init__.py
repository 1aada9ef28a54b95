"""What a person sees of a run: the terminal, the tables, the HTML report and the figures.

The room reads a run's files or listens to a search; it decides nothing. The rule: a number is shown as the files have
it, the HTML report needs no network and no other file, and a chart is one specification for screen and paper.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.report.console import Display
    from evomerge.report.figures import save_figures
    from evomerge.report.html import write_report
    from evomerge.report.narrow import print_table
    from evomerge.report.runs import compare_runs
    from evomerge.report.runs_page import write_runs_page
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
    "write_runs_page",
]
