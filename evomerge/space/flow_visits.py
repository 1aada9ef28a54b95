"""The layers that a flow visits, one after the other: read from a recipe, and gathered into its slices."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from evomerge.errors import ConfigError
from evomerge.recipes import FilteredValue, ModelRef, Recipe
from evomerge.space.flow_config import METHOD


@dataclass(frozen=True)
class Visit:
    """One layer of a flow."""

    model: ModelRef
    layer: int
    scale: float = 1.0


def visits_of(recipe: Recipe, layers: int) -> list[Visit]:
    """The layers that a recipe copies, in order; ConfigError for a recipe that merges tensors.

    A scale is that of a tensor with the first filter's name.
    """
    if recipe.method != METHOD:
        raise ConfigError(f"{recipe.method} merges tensors and has no order of layers; give a recipe of {METHOD}")
    found = []
    for part in recipe.slices:
        source = part.sources[0]
        scale = source.settings.get("scale", part.settings.get("scale", recipe.settings.get("scale", 1.0)))
        first = scale[0] if isinstance(scale, tuple) and scale else scale
        value = first.value if isinstance(first, FilteredValue) else first
        number = float(value) if isinstance(value, float | int) else 1.0
        found += [Visit(source.model, layer, number) for layer in range(*(source.layers or (0, layers)))]
    return found


def runs_of(visits: Sequence[Visit]) -> list[list[Visit]]:
    """Visits of consecutive layers of one model with one scale, together."""
    keyed = enumerate(visits)
    groups = groupby(keyed, key=lambda pair: (pair[1].model, pair[1].scale, pair[1].layer - pair[0]))
    return [[visit for _, visit in group] for _, group in groups]
