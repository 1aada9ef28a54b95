"""searching."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.searching.budget import Allowance, Budget
    from evomerge.searching.evaluator import Candidate, Evaluator
    from evomerge.searching.generation import races
    from evomerge.searching.item_order import ItemOrder
    from evomerge.searching.loop import Board, Listener, header, search
    from evomerge.searching.objective import FAILED, ROUNDING, Objective, Worth
    from evomerge.searching.pareto import front, knee, share_of_box, spread_out
    from evomerge.searching.race import RaceConfig
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "FAILED",
    "ROUNDING",
    "Allowance",
    "Board",
    "Budget",
    "Candidate",
    "Evaluator",
    "ItemOrder",
    "Listener",
    "Objective",
    "RaceConfig",
    "Worth",
    "front",
    "header",
    "knee",
    "races",
    "search",
    "share_of_box",
    "spread_out",
]
