"""finalise."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.finalise.finaliser import Final, Finalise
    from evomerge.finalise.recipe_writer import RECIPE, Keeper
    from evomerge.finalise.result import looks
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "RECIPE",
    "Final",
    "Finalise",
    "Keeper",
    "looks",
]
