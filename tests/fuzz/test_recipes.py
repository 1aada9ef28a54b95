"""Recipes and mergekit's documents: read, or refused in a line; what is read says its numbers and is written back."""

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.methods import names
from evomerge.parsing import parse_yaml
from evomerge.recipes import FilteredValue, Recipe, dump_recipe, load_recipe, original_recipe, parse_recipe
from tests.fuzz.budget import inputs
from tests.fuzz.outcomes import REFUSED, outcome
from tests.fuzz.readings import DECIMAL
from tests.fuzz.values import NUMERALS, changed, is_writable, torn

OURS = """
merge_method: dare_ties
base_model: org/base@abc
models:
- model: org/one
  parameters:
    weight:
    - {filter: embed, value: 0.1}
    - value: [0.2, 0.3, 1.0e-06]
    density: 0.5
- {model: org/base@abc+org/lora@v1, parameters: {weight: 1.0}}
parameters: {normalize: true, lambda: [0.5, 1.5]}
dtype: float32
out_dtype: bfloat16
tokenizer: {source: union, tokens: {a: {source: org/one, force: true}}, pad_to_multiple_of: 8}
chat_template: chatml
evomerge:
  schema: 1
  exactness: distribution-only
  seed: 7
  options: {rescale_by: l1, sign: weighted, divisor: weights}
  vocabulary: {models: [org/base@abc, org/one], missing: pieces, has_base: true}
  routers: {file: routers.safetensors, sha256: abc}
  label: 3/4
  scores: {search: 0.5}
  fingerprint: abc
  models: {org/one: sha}
  frozen_from: {merge_method: ties, base_model: org/base, models: [{model: org/one, parameters: {weight: 1}}]}
"""
THEIRS = """
merge_method: slerp
base_model: {model: {path: org/base, revision: main}}
slices:
- sources:
  - {model: org/base, layer_range: [0, 16]}
  - {model: {model: org/one, lora: {path: org/lora}}, layer_range: [0, 16], parameters: {weight: 0.5}}
  parameters: {t: [0, 0.5, 1]}
- sources: [{model: org/base, layer_range: [16, 24]}, {model: org/one, layer_range: [16, 24]}]
parameters: {t: [{filter: self_attn, value: [0, 0.5]}, {value: 0.25}]}
dtype: bfloat16
tokenizer_source: union
name: mine
"""
DOCUMENTS = [parse_yaml(OURS), parse_yaml(THEIRS)]
METHODS = st.sampled_from(names()).map(lambda name: {"merge_method": name})


def numbers_of(recipe: Recipe) -> list[Any]:
    """Every number and truth value of the settings."""
    found: list[Any] = []
    for _, setting in recipe.all_settings():
        for entry in setting if isinstance(setting, tuple) else (setting,):
            value = entry.value if isinstance(entry, FilteredValue) else entry
            found += value if isinstance(value, tuple) else (value,)
    return found


def written_numbers(tree: Any) -> set[Any]:
    """Every number of a document, also those in texts; a set, since a recipe may leave some out."""
    if isinstance(tree, Mapping):
        return set().union(*map(written_numbers, tree.values())) if tree else set()
    if isinstance(tree, list):
        return set().union(*map(written_numbers, tree)) if tree else set()
    if isinstance(tree, str):
        return {float(tree)} if DECIMAL.fullmatch(tree) else set()
    return {float(tree)} if isinstance(tree, int | float) and abs(tree) <= sys.float_info.max else set()


@given(st.sampled_from(DOCUMENTS).flatmap(changed), METHODS | st.just({}))
@inputs(400)
def test_a_document_is_read_and_written_back(document: Any, method: dict[str, str]) -> None:
    document = document | method if isinstance(document, dict) else document
    if not is_writable(document):
        return
    given = copy.deepcopy(document)
    recipe = outcome("recipe document", lambda: parse_recipe(document))
    assert repr(document) == repr(given), "the document was changed"
    if recipe is REFUSED:
        return
    assert {float(number) for number in numbers_of(recipe)} <= {0.0, *written_numbers(document)}
    outcome("original of a recipe", lambda: original_recipe(recipe))
    text = dump_recipe(recipe)
    again = parse_recipe(parse_yaml(text))
    assert (again.key(), again, dump_recipe(again)) == (recipe.key(), recipe, text)


FOLDER = Path()


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder for all inputs; hypothesis allows no fixture for each."""
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("recipes")


@given(torn([OURS, THEIRS]) | NUMERALS.map(lambda text: OURS.replace("0.5", text, 1)))
@inputs(200)
def test_a_file_is_read_or_named(text: str) -> None:
    path = FOLDER / "recipe.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    recipe = outcome("recipe file", lambda: load_recipe(path), named=str(path))
    if recipe is not REFUSED:
        assert load_recipe(path).key() == recipe.key()
