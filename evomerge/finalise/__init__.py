"""finalise."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.finalise.finaliser import FinaliseConfig, Finaliser
    from evomerge.finalise.recipe_writer import RECIPE, RecipeWriter
    from evomerge.finalise.result import count_holdout_uses
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "RECIPE",
    "FinaliseConfig",
    "Finaliser",
    "RecipeWriter",
    "count_holdout_uses",
]
