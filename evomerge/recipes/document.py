"""A recipe as the plain objects of its YAML document: mergekit's schema plus one `evomerge` block."""

from typing import Any

from evomerge import methods
from evomerge.recipes.recipe import Recipe, Rule, Setting, Slice, Source

SCHEMA = 1
FROZEN_FROM = "frozen_from"  # in the notes: the recipe whose coefficients this one holds as plain weights


def to_document(recipe: Recipe) -> dict[str, Any]:
    """The YAML document as plain objects; `parse` is its inverse."""
    document: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.base:
        document["base_model"] = str(recipe.base)
    document |= _body(recipe)
    if recipe.settings:
        document["parameters"] = {key: _plain(value) for key, value in recipe.settings.items()}
    if recipe.out_dtype:
        document["dtype"] = "float32"  # computed in fp32 by both, and rounded once
        document["out_dtype"] = recipe.out_dtype
    document |= recipe.tokenizer
    document["evomerge"] = {
        "schema": SCHEMA,
        "exactness": grade(recipe),
        "seed": recipe.seed,
        "options": dict(recipe.options),
    }
    document["evomerge"] |= dict(recipe.notes)
    return document


def grade(recipe: Recipe) -> methods.Exactness:
    """How this very recipe can be rebuilt elsewhere; until it is frozen, mergekit cannot read a `frozen-linear` one."""
    if FROZEN_FROM in recipe.notes:
        return "frozen-linear"
    found = methods.exactness(recipe.method, recipe.options)
    return "native" if found == "frozen-linear" else found


def _body(recipe: Recipe) -> dict[str, Any]:
    if any(source.layers for part in recipe.slices for source in part.sources):
        return {"slices": [_slice(part) for part in recipe.slices]}
    sources = list(recipe.slices[0].sources)
    if recipe.method == "linear" and recipe.base and recipe.base not in [source.model for source in sources]:
        # mergekit adds an unlisted base without a weight, and then refuses it
        sources.append(Source(recipe.base, {"weight": 0.0}))
    return {"models": [_source(source) for source in sources]}


def _slice(part: Slice) -> dict[str, Any]:
    found: dict[str, Any] = {"sources": [_source(source) for source in part.sources]}
    if part.base:
        found["base_model"] = str(part.base)
    if part.settings:
        found["parameters"] = {key: _plain(value) for key, value in part.settings.items()}
    return found


def _source(source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {"model": str(source.model)}
    if source.layers:
        found["layer_range"] = list(source.layers)
    if source.settings:
        found["parameters"] = {key: _plain(value) for key, value in source.settings.items()}
    return found


def _plain(setting: Setting) -> Any:
    if not isinstance(setting, tuple):
        return setting
    return [_rule(entry) if isinstance(entry, Rule) else entry for entry in setting]


def _rule(rule: Rule) -> dict[str, Any]:
    value = list(rule.value) if isinstance(rule.value, tuple) else rule.value
    return {"value": value} if rule.filter is None else {"filter": rule.filter, "value": value}
