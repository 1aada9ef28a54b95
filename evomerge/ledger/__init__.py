"""ledger."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.ledger.ledger import Ledger, Rechunking
    from evomerge.ledger.reading import complete_scores, plan_of, read_trials, refuse_other_search
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "Ledger",
    "Rechunking",
    "complete_scores",
    "plan_of",
    "read_trials",
    "refuse_other_search",
]
