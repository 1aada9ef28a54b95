"""searching."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.searching.budget import BudgetConfig, RemainingBudget
    from evomerge.searching.evaluator import Candidate, Evaluator
    from evomerge.searching.generation import uses_races
    from evomerge.searching.item_order import ItemOrder
    from evomerge.searching.loop import Leaderboard, SearchCallback, ledger_header, search
    from evomerge.searching.objective import FAILED, FLOOR_TOLERANCE, Fitness, Objective
    from evomerge.searching.pareto import diverse_subset, knee, normalised_hypervolume, pareto_front
    from evomerge.searching.race import RaceConfig
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "FAILED",
    "FLOOR_TOLERANCE",
    "BudgetConfig",
    "Candidate",
    "Evaluator",
    "Fitness",
    "ItemOrder",
    "Leaderboard",
    "Objective",
    "RaceConfig",
    "RemainingBudget",
    "SearchCallback",
    "diverse_subset",
    "knee",
    "ledger_header",
    "normalised_hypervolume",
    "pareto_front",
    "search",
    "uses_races",
]
