"""A merge whose coefficients are plain numbers, written as task arithmetic with one weight per tensor, for mergekit."""

from dataclasses import replace

from evomerge import methods
from evomerge.kernels import LinComb
from evomerge.merging.materializer import Materializer, Part
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
    """The same merge, to the bit, in a method that mergekit has; any recipe but a `frozen-linear` one as it is.

    It becomes task arithmetic, or `linear` where the weights do not leave the base the rest. The original stands in the
    notes. A stacked recipe stays as it is: its tensors have two names.
    """
    (part, *more) = recipe.slices
    stacked = more or any(source.layers for source in part.sources)
    if methods.exactness(recipe.method, recipe.options) != "frozen-linear" or stacked or not recipe.base:
        return recipe
    parts = list(materializer.parts(recipe))
    numbers = {found.name: combination for found in parts if (combination := _plain(found))}
    if len(numbers) < len(parts):
        return recipe
    experts = [source.model for source in part.sources if source.model != recipe.base]
    leaves_rest = all(found.base == 1.0 - sum(_floats(found)) for found in numbers.values())
    columns: dict[ModelRef, dict[str, float]] = {
        model: {name: _floats(found)[place] for name, found in numbers.items()} for place, model in enumerate(experts)
    }
    if not leaves_rest:
        columns = {recipe.base: {name: float(_float(found.base)) for name, found in numbers.items()}, **columns}
    sources = tuple(Source(model, {"weight": _rules(column)}) for model, column in columns.items())
    return replace(
        recipe,
        method="task_arithmetic" if leaves_rest else "linear",
        slices=(replace(part, sources=sources, settings={}),),
        settings={} if leaves_rest else {"normalize": False},
        options={},
        notes={**recipe.notes, FROZEN_FROM: _original(recipe)},
    )


def _plain(part: Part) -> LinComb | None:
    """The coefficients of a part where they are one number per model."""
    found = part.coefficients
    if not isinstance(found, LinComb) or found.directions:
        return None
    return found if all(isinstance(weight, float) for weight in (found.base, *found.experts)) else None


def _floats(found: LinComb) -> tuple[float, ...]:
    return tuple(_float(weight) for weight in found.experts)


def _float(weight: object) -> float:
    assert isinstance(weight, float)
    return weight


def _rules(column: dict[str, float]) -> Setting:
    """A value per tensor; longer names first, since a filter is a part of a name."""
    names = sorted(column, key=lambda name: (-len(name), name))
    rules = [FilteredValue(name, column[name]) for name in names[:-1]]
    return simplify_setting((*rules, FilteredValue(None, column[names[-1]])))


def _original(recipe: Recipe) -> dict[str, object]:
    document = to_document(recipe.with_notes({}))
    return {key: document[key] for key in ("merge_method", "base_model", "models", "parameters") if key in document}
