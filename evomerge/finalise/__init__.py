"""From the best candidates of a search to a winner that may be claimed, with the statistics of the claim.

The winner is chosen on `select` and compared with every baseline on `holdout`, paired by item. The room knows
candidates and scores, no weights. The rule: nothing that is claimed was chosen on the items of the claim.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.finalise.config import FinaliseConfig
    from evomerge.finalise.finaliser import Finaliser
    from evomerge.finalise.findings import count_holdout_uses
    from evomerge.finalise.flips import Flip, flipped_items, shown_flips
    from evomerge.finalise.recipe_writer import RecipeWriter
    from evomerge.finalise.statistics import PairedScores, bootstrap
    from evomerge.finalise.twins import describe_twins, same_weights
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "FinaliseConfig",
    "Finaliser",
    "Flip",
    "PairedScores",
    "RecipeWriter",
    "bootstrap",
    "count_holdout_uses",
    "describe_twins",
    "flipped_items",
    "same_weights",
    "shown_flips",
]
