"""The rows that a search must beat: base, each expert, uniform average, textbook default, and whom the user names."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.recipes import ModelRef, Recipe, Source, load_recipe, original_recipe, recipe_of_models
from evomerge.schema import Label, Location
from evomerge.space.genes import refuse_unknown_genes
from evomerge.space.space import SearchSpace, Space

CONTROL = "random_direction"
RESERVED = ("base", "uniform", "default", CONTROL, "centre", "model", "simpler", "winner")


def mandatory_baselines(space: SearchSpace, base: ModelRef, experts: Mapping[str, ModelRef]) -> dict[str, Recipe]:
    """Label → recipe, the base first.

    Base, experts and average are written as task arithmetic, which is exact for them; the default is the space's own
    method (or each of its methods) with its textbook values, or those that the experiment gives as `default`.
    ConfigError where an expert bears a baseline's name.
    """
    defaults = space.defaults()
    for label in experts:
        if label in RESERVED or label in defaults:
            raise ConfigError(f"experts.{label}: that name is a baseline's; call the expert something else")
    rest: dict[str, Any] = {"out_dtype": space.out_dtype, "seed": space.seed}
    refs = tuple(experts.values())

    def weighted(weights: list[float]) -> Recipe:
        sources = tuple(Source(ref, {"weight": weight}) for ref, weight in zip(refs, weights, strict=True))
        return recipe_of_models("task_arithmetic", base, sources, {}, **rest)

    found = {"base": weighted([0.0] * len(refs))}
    for place, label in enumerate(experts):
        found[label] = weighted([float(place == other) for other in range(len(refs))])
    found["uniform"] = weighted([_share(refs)] * len(refs))
    return found | {label: space.decode(vector) for label, vector in defaults.items()}


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """Rows beside the mandatory ones: a control, textbook merges, and recipes of any origin, by label.

    A method is a name, or name, settings, options and the values of genes (the same for all experts and tensors).
    """

    random_direction: bool = False
    methods: Mapping[Label, str | Mapping[str, Any]] = field(default_factory=dict)
    recipes: Mapping[Label, Location] = field(default_factory=dict)

    def refuse_taken(self, labels: Collection[str]) -> None:
        """ConfigError where a row bears the name of another."""
        for section in (self.methods, self.recipes):
            for label in section:
                taken = label in RESERVED or label in labels or (label in self.methods and label in self.recipes)
                if taken:
                    raise ConfigError(f"baselines: the name {label!r} is taken; call that row something else")


def random_direction(space: SearchSpace, base: ModelRef, experts: Mapping[str, ModelRef]) -> Recipe:
    """The uniform average with random signs: every element moves as far from the base as there, but half of them the
    wrong way. Where it scores alike, the amount of change is all that the average has.
    """
    sources = tuple(Source(ref, {"amount": _share(tuple(experts.values()))}) for ref in experts.values())
    return recipe_of_models(CONTROL, base, sources, {}, out_dtype=space.out_dtype, seed=space.seed)


def textbook(space: Space, genes: Mapping[str, float]) -> Recipe:
    """A method with these values of its genes, the others at their textbook defaults; ConfigError where it has none."""
    refuse_unknown_genes(genes, [space.method], "genes")
    point = space.encode(genes)
    if point is None:
        ranges = ", ".join(f"{axes.gene.name} {axes.gene.low:g} to {axes.gene.high:g}" for axes in space.axes)
        raise ConfigError(f"{dict(genes)} is outside of what {space.method} takes: {ranges}")
    return space.decode(point)


def from_file(path: str, models: Collection[ModelRef]) -> Recipe:
    """An earlier recipe, or one of mergekit's; ConfigError where it merges other models than this search."""
    recipe = original_recipe(load_recipe(Path(path)))
    if foreign := [ref for ref in recipe.models() if ref not in models]:
        known = ", ".join(map(str, models))
        raise ConfigError(f"{path} merges {foreign[0]}; this search reads {known}")
    return recipe


def _share(refs: Sequence[ModelRef]) -> float:
    return round(1.0 / len(refs), 6)
