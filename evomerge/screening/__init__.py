"""The choice of experts before a search: which of a long list of candidates the search merges, and why.

Candidates are compared by their task vectors, by their scores alone, and by what a merge loses without them. All scores
go through the evaluator into the ledger. The room knows no optimizer and no search space. The rule: the choice does not
depend on the order of the candidates, and every candidate that stays or leaves has a reason.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.screening.config import ScreenConfig
    from evomerge.screening.merges import MergeOptions, alone_recipe, base_recipe
    from evomerge.screening.screener import Screener
    from evomerge.screening.shown_rows import screening_lines, screening_rows, screening_table
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "MergeOptions",
    "ScreenConfig",
    "Screener",
    "alone_recipe",
    "base_recipe",
    "screening_lines",
    "screening_rows",
    "screening_table",
]
