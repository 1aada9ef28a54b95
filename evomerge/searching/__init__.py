"""The search: the loop, its generations and races, the budget, the objective, and the evaluation of candidates.

The loop imports no optimizer, no Ray, no lm-eval and no torch: those are behind `Optimizer`, `Pool` and `Scorer`. The
rule: every decision is a function of the ledger, so that a resumed search is the same search. (The room is not called
`search`, because `evomerge.search` is the function.)
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.searching.budget import BudgetConfig, RemainingBudget
    from evomerge.searching.deadline import Deadline, TimedEvaluation
    from evomerge.searching.evaluator import Evaluator
    from evomerge.searching.generation import uses_races
    from evomerge.searching.item_order import ItemOrder
    from evomerge.searching.leaderboard import Leaderboard, SearchCallback
    from evomerge.searching.loop import ledger_header, search
    from evomerge.searching.objective import FAILED, FLOOR_TOLERANCE, Fitness, Objective
    from evomerge.searching.pareto import diverse_subset, knee, normalised_hypervolume, pareto_front
    from evomerge.searching.race import RaceConfig
    from evomerge.searching.search_config import SearchConfig
    from evomerge.searching.slope_evaluator import WITHOUT_SLOPES, SlopeEvaluator, SlopeItems
    from evomerge.searching.stages import Candidate
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "FAILED",
    "FLOOR_TOLERANCE",
    "WITHOUT_SLOPES",
    "BudgetConfig",
    "Candidate",
    "Deadline",
    "Evaluator",
    "Fitness",
    "ItemOrder",
    "Leaderboard",
    "Objective",
    "RaceConfig",
    "RemainingBudget",
    "SearchCallback",
    "SearchConfig",
    "SlopeEvaluator",
    "SlopeItems",
    "TimedEvaluation",
    "diverse_subset",
    "knee",
    "ledger_header",
    "normalised_hypervolume",
    "pareto_front",
    "search",
    "uses_races",
]
