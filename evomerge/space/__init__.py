"""space."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.space.axes import Coefficient
    from evomerge.space.baselines import (
        CONTROL,
        BaselinesConfig,
        load_baseline_recipe,
        mandatory_baselines,
        random_direction_recipe,
        textbook_recipe,
    )
    from evomerge.space.categorical import ExpertSubset, MethodChoice, NestableSpace, ScheduleChoice
    from evomerge.space.genes import refuse_unknown_genes
    from evomerge.space.space import SearchSpace, Space
    from evomerge.space.warm_start import initial_points
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "CONTROL",
    "BaselinesConfig",
    "Coefficient",
    "ExpertSubset",
    "MethodChoice",
    "NestableSpace",
    "ScheduleChoice",
    "SearchSpace",
    "Space",
    "initial_points",
    "load_baseline_recipe",
    "mandatory_baselines",
    "random_direction_recipe",
    "refuse_unknown_genes",
    "textbook_recipe",
]
