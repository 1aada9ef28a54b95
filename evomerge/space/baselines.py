"""The baselines of a search: base, each expert, uniform average, textbook default, and rows that the user adds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.recipes import ModelRef, Recipe, Source, load_recipe, original_recipe, recipe_of_models
from evomerge.schema import Label, Location
from evomerge.space.genes import refuse_unknown_genes
from evomerge.space.search_space import SearchSpace
from evomerge.space.space import Space

CONTROL = "random_direction"  # label and method of the control row
RESERVED = ("base", "uniform", "default", CONTROL, "centre", "model", "simpler", "winner", "frankenmerge")


def mandatory_baselines(space: SearchSpace, base: ModelRef, experts: Mapping[str, ModelRef]) -> dict[str, Recipe]:
    """Label → recipe of the baselines that every search has, the base first.

    Base, experts and average are recipes of task arithmetic, which gives them exactly. The default is the space's
    method, or each of its methods, at the default values of its genes, which an experiment may change. ConfigError if
    an expert has the name of a baseline.
    """
    defaults = space.default_points()
    for label in experts:
        if label in RESERVED or label in defaults:
            raise ConfigError(f"experts.{label}: that name is a baseline's; call the expert something else")
    options: dict[str, Any] = {"out_dtype": space.out_dtype, "seed": space.seed}
    refs = tuple(experts.values())

    def weighted(weights: list[float]) -> Recipe:
        sources = tuple(Source(ref, {"weight": weight}) for ref, weight in zip(refs, weights, strict=True))
        return recipe_of_models("task_arithmetic", base, sources, {}, **options)

    found = {"base": weighted([0.0] * len(refs))}
    for place, label in enumerate(experts):
        found[label] = weighted([float(place == other) for other in range(len(refs))])
    found["uniform"] = weighted([_uniform_weight(refs)] * len(refs))
    return found | {label: space.decode(vector) for label, vector in defaults.items()}


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """Optional baselines: a random-direction control, merges of a method with given gene values, and recipe files.

    `methods` maps a label to a method's name, or to a mapping with its name, settings, options and gene values, which
    are the same for all experts and tensors. `recipes` maps a label to a file.
    """

    random_direction: bool = False
    methods: Mapping[Label, str | Mapping[str, Any]] = field(default_factory=dict)
    recipes: Mapping[Label, Location] = field(default_factory=dict)

    def refuse_taken(self, labels: Collection[str]) -> None:
        """ConfigError if a row has a reserved name, one of these labels, or the name of another row."""
        for section in (self.methods, self.recipes):
            for label in section:
                taken = label in RESERVED or label in labels or (label in self.methods and label in self.recipes)
                if taken:
                    raise ConfigError(f"baselines: the name {label!r} is taken; call that row something else")


def random_direction_recipe(space: SearchSpace, base: ModelRef, experts: Mapping[str, ModelRef]) -> Recipe:
    """The uniform average with random signs, a control: every element changes by the same amount as in the average.

    If the average scores no better than this recipe, the direction of its change has no effect.
    """
    sources = tuple(Source(ref, {"amount": _uniform_weight(tuple(experts.values()))}) for ref in experts.values())
    return recipe_of_models(CONTROL, base, sources, {}, out_dtype=space.out_dtype, seed=space.seed)


def textbook_recipe(space: Space, genes: Mapping[str, float]) -> Recipe:
    """The space's method with these gene values, and the textbook defaults of all other genes.

    ConfigError for an unknown gene or a value out of its range.
    """
    refuse_unknown_genes(genes, [space.method], "genes")
    point = space.encode(genes)
    if point is None:
        ranges = ", ".join(f"{axes.gene.name} {axes.gene.low:g} to {axes.gene.high:g}" for axes in space.axes)
        raise ConfigError(f"{dict(genes)} is outside of what {space.method} takes: {ranges}")
    return space.decode(point)


def load_baseline_recipe(path: str, models: Collection[ModelRef]) -> Recipe:
    """The recipe in a file of evomerge or mergekit; ConfigError if it merges a model that this search does not have."""
    recipe = original_recipe(load_recipe(Path(path)))
    if foreign := [ref for ref in recipe.models() if ref not in models]:
        known = ", ".join(map(str, models))
        raise ConfigError(f"{path} merges {foreign[0]}; this search reads {known}")
    return recipe


def _uniform_weight(refs: Sequence[ModelRef]) -> float:
    return round(1.0 / len(refs), 6)
