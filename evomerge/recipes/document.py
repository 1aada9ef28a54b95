"""Converts a recipe to the plain objects of its YAML document: mergekit's schema plus one `evomerge` block."""

from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.recipes.recipe import FilteredValue, Recipe, Setting, Slice, Source

SCHEMA_VERSION = 1
FROZEN_FROM = "frozen_from"  # key in the notes: the original recipe, whose coefficients this one contains as weights


def to_document(recipe: Recipe) -> dict[str, Any]:
    """The YAML document as plain objects; `parse_recipe` is its inverse."""
    document: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.base:
        document["base_model"] = str(recipe.base)
    document |= _body(recipe)
    if recipe.settings:
        document["parameters"] = {key: _plain(value) for key, value in recipe.settings.items()}
    if recipe.out_dtype:
        document["dtype"] = "float32"  # evomerge and mergekit then compute in fp32 and round once
        document["out_dtype"] = recipe.out_dtype
    document |= _tokenizer(recipe)
    document["evomerge"] = {
        "schema": SCHEMA_VERSION,
        "exactness": recipe_exactness(recipe),
        "seed": recipe.seed,
        "options": dict(recipe.options),
    }
    if recipe.routers:
        document["evomerge"]["routers"] = {"file": Path(recipe.routers.path).name, "sha256": recipe.routers.sha256}
    if recipe.vocabulary:
        document["evomerge"]["vocabulary"] = {k: v for k, v in recipe.vocabulary.items() if k != "tokenizer"}
    document["evomerge"] |= dict(recipe.notes)
    return document


def _tokenizer(recipe: Recipe) -> dict[str, Any]:
    """The document's tokenizer keys; where rows change, the request is written in full."""
    if not recipe.vocabulary:
        return dict(recipe.tokenizer)
    kept = {key: value for key, value in recipe.tokenizer.items() if key not in ("tokenizer_source", "tokenizer")}
    return {"tokenizer": dict(recipe.vocabulary["tokenizer"]), **kept}


def recipe_exactness(recipe: Recipe) -> methods.Exactness:
    """How exactly mergekit can rebuild this recipe; a `frozen-linear` method is `native` until the recipe is frozen."""
    if recipe.routers or _has_vocabulary_of_its_own(recipe):
        return "native"
    if FROZEN_FROM in recipe.notes:
        return "frozen-linear"
    exactness = methods.exactness(recipe.method, recipe.options)
    return "native" if exactness == "frozen-linear" else exactness


def _has_vocabulary_of_its_own(recipe: Recipe) -> bool:
    """Whether mergekit would make other rows: the vocabulary is also of models that are not merged, or has pieces."""
    spec = recipe.vocabulary
    if not spec:
        return False
    rules = (rule.get("source") for rule in spec["tokenizer"].get("tokens", {}).values())
    models = {str(ref) for ref in recipe.models()}
    return "missing" in spec or {"kind": "pieces"} in rules or not set(spec.get("models", ())) <= models


def _body(recipe: Recipe) -> dict[str, Any]:
    if any(source.layers for part in recipe.slices for source in part.sources):
        return {"slices": [_slice(part) for part in recipe.slices]}
    sources = list(recipe.slices[0].sources)
    if recipe.method == "linear" and recipe.base and recipe.base not in [source.model for source in sources]:
        # mergekit would add an unlisted base without a weight and then raise an error because the weight is missing
        sources.append(Source(recipe.base, {"weight": 0.0}))
    return {"models": [_source(source) for source in sources]}


def _slice(part: Slice) -> dict[str, Any]:
    document: dict[str, Any] = {"sources": [_source(source) for source in part.sources]}
    if part.base:
        document["base_model"] = str(part.base)
    if part.settings:
        document["parameters"] = {key: _plain(value) for key, value in part.settings.items()}
    return document


def _source(source: Source) -> dict[str, Any]:
    document: dict[str, Any] = {"model": str(source.model)}
    if source.layers:
        document["layer_range"] = list(source.layers)
    if source.settings:
        document["parameters"] = {key: _plain(value) for key, value in source.settings.items()}
    return document


def _plain(setting: Setting) -> Any:
    if not isinstance(setting, tuple):
        return setting
    return [_rule(entry) if isinstance(entry, FilteredValue) else entry for entry in setting]


def _rule(rule: FilteredValue) -> dict[str, Any]:
    value = list(rule.value) if isinstance(rule.value, tuple) else rule.value
    return {"value": value} if rule.filter is None else {"filter": rule.filter, "value": value}
