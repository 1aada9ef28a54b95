"""space."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.space.axes import Coefficient
    from evomerge.space.baselines import (
        CONTROL,
        BaselinesConfig,
        from_file,
        mandatory_baselines,
        random_direction,
        textbook,
    )
    from evomerge.space.categorical import ExpertSubset, Inner, MethodChoice, ScheduleChoice
    from evomerge.space.genes import refuse_unknown_genes
    from evomerge.space.space import SearchSpace, Space
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "CONTROL",
    "BaselinesConfig",
    "Coefficient",
    "ExpertSubset",
    "Inner",
    "MethodChoice",
    "ScheduleChoice",
    "SearchSpace",
    "Space",
    "from_file",
    "mandatory_baselines",
    "random_direction",
    "refuse_unknown_genes",
    "textbook",
]
