"""The search space: points of the unit cube to recipes and back; the recipes that a search starts from and must beat.

Genes are narrowed, given schedules over the layers and laid out as axes; choices of method, schedule and experts stand
around them. The room knows names and shapes of tensors, no weights and no scores. The rule: every point of the cube is
a valid recipe, and no two points are mirror images of one recipe.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.space.baselines import (
        CONTROL,
        RESERVED,
        BaselinesConfig,
        load_baseline_recipe,
        mandatory_baselines,
        random_direction_recipe,
        textbook_recipe,
    )
    from evomerge.space.build import SpaceBuilder
    from evomerge.space.flow import FlowSpace
    from evomerge.space.flow_config import FlowConfig, read_flow
    from evomerge.space.genes import refuse_unknown_genes
    from evomerge.space.method_config import read_methods, read_textbook
    from evomerge.space.search_space import SearchSpace
    from evomerge.space.space import Space
    from evomerge.space.used_items import items_used_by
    from evomerge.space.warm_start import initial_points
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "CONTROL",
    "RESERVED",
    "BaselinesConfig",
    "FlowConfig",
    "FlowSpace",
    "SearchSpace",
    "Space",
    "SpaceBuilder",
    "initial_points",
    "items_used_by",
    "load_baseline_recipe",
    "mandatory_baselines",
    "random_direction_recipe",
    "read_flow",
    "read_methods",
    "read_textbook",
    "refuse_unknown_genes",
    "textbook_recipe",
]
