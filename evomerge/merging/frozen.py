"""Rewrites a merge whose coefficients are numbers as task arithmetic with one weight per tensor, for mergekit."""

from dataclasses import replace

from evomerge import methods
from evomerge.kernels import LinComb
from evomerge.merging.materializer import Materializer, TensorMerge
from evomerge.recipes import (
    FROZEN_FROM,
    FilteredValue,
    ModelRef,
    Recipe,
    Setting,
    Source,
    simplify_setting,
    to_document,
)


def freeze(recipe: Recipe, materializer: Materializer) -> Recipe:
    """The same merge, exact to the bit, in a method that mergekit has; only `frozen-linear` recipes are rewritten.

    The result is task arithmetic, or `linear` if the weights do not sum to 1. Its notes contain the original recipe. A
    recipe with stacked slices is returned unchanged, because its input and output tensors have different names.
    """
    if recipe.routers:
        return replace(freeze(replace(recipe, routers=None), materializer), routers=recipe.routers)
    (part, *more) = recipe.slices
    stacked = more or any(source.layers for source in part.sources)
    if methods.exactness(recipe.method, recipe.options) != "frozen-linear" or stacked or not recipe.base:
        return recipe
    merges = list(materializer.tensor_merges(recipe))
    combinations = {merge.name: combination for merge in merges if (combination := _scalar_combination(merge))}
    if len(combinations) < len(merges):
        return recipe
    experts = [source.model for source in part.sources if source.model != recipe.base]
    sums_to_one = all(found.base == 1.0 - sum(_floats(found)) for found in combinations.values())
    weights: dict[ModelRef, dict[str, float]] = {
        model: {name: _floats(found)[i] for name, found in combinations.items()} for i, model in enumerate(experts)
    }
    if not sums_to_one:
        weights = {recipe.base: {name: float(_float(found.base)) for name, found in combinations.items()}, **weights}
    sources = tuple(Source(model, {"weight": _per_tensor(by_name)}) for model, by_name in weights.items())
    return replace(
        recipe,
        method="task_arithmetic" if sums_to_one else "linear",
        slices=(replace(part, sources=sources, settings={}),),
        settings={} if sums_to_one else {"normalize": False},
        options={},
        notes={**recipe.notes, FROZEN_FROM: _original(recipe)},
    )


def _scalar_combination(merge: TensorMerge) -> LinComb | None:
    """The coefficients of a tensor if they are one number per model, else None."""
    combination = merge.coefficients
    if not isinstance(combination, LinComb) or combination.directions:
        return None
    weights = (combination.base, *combination.experts)
    return combination if all(isinstance(weight, float) for weight in weights) else None


def _floats(combination: LinComb) -> tuple[float, ...]:
    return tuple(_float(weight) for weight in combination.experts)


def _float(weight: object) -> float:
    assert isinstance(weight, float)
    return weight


def _per_tensor(values: dict[str, float]) -> Setting:
    """One value per tensor as filters; longer names come first, because a filter matches a part of a name."""
    names = sorted(values, key=lambda name: (-len(name), name))
    filtered = [FilteredValue(name, values[name]) for name in names[:-1]]
    return simplify_setting((*filtered, FilteredValue(None, values[names[-1]])))


def _original(recipe: Recipe) -> dict[str, object]:
    document = to_document(recipe.with_notes({}))
    return {key: document[key] for key in ("merge_method", "base_model", "models", "parameters") if key in document}
