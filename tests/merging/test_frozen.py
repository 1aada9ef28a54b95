"""A frozen recipe is the same merge in plain numbers: to the bit, in every dtype, through YAML, with its origin."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from evomerge import methods
from evomerge.merging.digests import fingerprint
from evomerge.merging.frozen import freeze
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes import dump_recipe, load_recipe, parse_recipe
from evomerge.recipes.document import FROZEN_FROM, to_document
from evomerge.recipes.recipe import Recipe, Source, recipe_of_models
from evomerge.space.space import Space
from tests.families import Folders, save_adapter, save_family

FROZEN = [name for name in methods.names() if methods.load(name).EXACTNESS == "frozen-linear"]
OTHERS = [name for name in methods.names() if name not in FROZEN]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return opened(save_family(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return opened(save_family("llama", tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Checkpoints stored in bfloat16."""
    return opened(save_family("llama", tmp_path_factory.mktemp("short"), torch.bfloat16))


def opened(folders: Folders) -> Family:
    return Family(folders.base, folders.experts)


def space_of(family: Family, method: str, **changes: Any) -> Space:
    experts = list(family.experts)[: methods.load(method).EXPERTS[1]]
    named = {f"e{place}": ref for place, ref in enumerate(experts)}
    touched = [family.touched(ref) for ref in experts]
    return Space(method=method, base=family.ref, experts=named, layout=family.layout, touched=touched, **changes)


def candidates(family: Family, method: str, count: int = 3, **changes: Any) -> list[Recipe]:
    """Random genes, and the corners of the cube."""
    space = space_of(family, method, **changes)
    vectors = [*np.random.default_rng(7).random((count, space.dimensions))]
    return [space.decode(v) for v in (*vectors, np.zeros(space.dimensions), np.ones(space.dimensions))]


def bits(family: Family, recipe: Recipe, dtype: str = "float32") -> str:
    return fingerprint(Materializer(family).tensors(recipe, DTYPES[dtype]))


def test_there_are_methods_to_freeze() -> None:
    assert {"expo", "lines", "geometric_median", "karcher", "model_stock"} <= set(FROZEN)


@pytest.mark.parametrize("method", FROZEN)
def test_the_bytes_are_the_native_ones(method: str, family: Family) -> None:
    materializer = Materializer(family)
    for recipe in candidates(family, method, schedule={"blocks": 2}, components=("attention",)):
        frozen = freeze(recipe, materializer)
        assert frozen.method in ("task_arithmetic", "linear")
        for dtype in DTYPES:
            assert bits(family, frozen, dtype) == bits(family, recipe, dtype)


@pytest.mark.parametrize("method", FROZEN)
def test_short_checkpoints_and_live_models(method: str, short: Family) -> None:
    materializer, models = Materializer(short), {name: load_model(Path(short.ref.path), dtype=name) for name in DTYPES}
    for recipe in candidates(short, method, 1, schedule="each"):
        frozen = freeze(recipe, materializer)
        for model in models.values():
            found = []
            for one in (recipe, frozen):
                materializer.write(one, model)
                found.append(fingerprint(model.named_parameters()))
            assert found[0] == found[1]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", FROZEN)
def test_adapters(method: str, llama: Family, tmp_path: Path) -> None:
    adapters = [save_adapter("llama", llama.ref, tmp_path / str(seed), 2 + seed, seed)[0] for seed in range(2)]
    family = Family(llama.ref, [*adapters, next(iter(llama.experts))])  # two adapters and a checkpoint
    materializer = Materializer(family)
    for recipe in candidates(family, method):
        frozen = freeze(recipe, materializer)
        assert frozen is not recipe and bits(family, frozen) == bits(family, recipe)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", FROZEN)
def test_it_survives_its_yaml_and_holds_its_origin(method: str, llama: Family, tmp_path: Path) -> None:
    materializer = Materializer(llama)
    for recipe in candidates(llama, method, schedule="each", out_dtype="bfloat16", seed=5):
        frozen = freeze(recipe.with_notes({"label": "3/1"}), materializer)
        text = dump_recipe(frozen)
        (tmp_path / "recipe.yaml").write_text(text)
        again = load_recipe(tmp_path / "recipe.yaml")
        assert again == frozen and again.key() == frozen.key() and dump_recipe(again) == text
        assert bits(llama, again, "bfloat16") == bits(llama, recipe, "bfloat16")
        block = yaml.safe_load(text)["evomerge"]
        assert block["exactness"] == "frozen-linear" and block["label"] == "3/1" and block["seed"] == 5
        original = block[FROZEN_FROM]
        native = to_document(recipe)
        assert original["merge_method"] == method
        assert original["models"] == native["models"] and original.get("parameters") == native.get("parameters")
        assert again.notes[FROZEN_FROM] == original


@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", FROZEN)
def test_the_origin_builds_the_same_again(method: str, llama: Family) -> None:
    """What the notes hold is a recipe: with the head of the frozen one it is the native merge."""
    for recipe in candidates(llama, method, 1):
        document = to_document(freeze(recipe, Materializer(llama)))
        native = {**document, **document["evomerge"][FROZEN_FROM]}
        native["evomerge"] = {key: value for key, value in native["evomerge"].items() if key != FROZEN_FROM}
        if "parameters" not in document["evomerge"][FROZEN_FROM]:
            native.pop("parameters", None)
        assert bits(llama, parse_recipe(native)) == bits(llama, recipe)


@pytest.mark.parametrize("method", FROZEN)
def test_freezing_twice_changes_nothing(method: str, llama: Family) -> None:
    frozen = freeze(candidates(llama, method, 1)[0], Materializer(llama))
    assert freeze(frozen, Materializer(llama)) is frozen


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_stay_as_they_are(method: str, llama: Family) -> None:
    if method.startswith("core_"):
        pytest.skip("merges adapters only")
    recipe = candidates(llama, method, 1)[0]
    assert freeze(recipe, Materializer(llama)) is recipe


def test_a_stacked_recipe_stays_as_it_is(llama: Family) -> None:
    first, second = list(llama.experts)[:2]
    parts = tuple(Source(ref, {}, (0, 2)) for ref in (llama.ref, first, second))
    recipe = recipe_of_models("model_stock", llama.ref, parts, {})
    assert freeze(recipe, Materializer(llama)) is recipe


def test_coefficients_of_rows_stay_native(llama: Family) -> None:
    """`filter_wise` has a ratio for each row, which no weight of a tensor can say."""
    experts = tuple(Source(ref, {}) for ref in llama.experts)
    recipe = recipe_of_models("model_stock", llama.ref, experts, {"filter_wise": True, "lambda": 1.0})
    assert freeze(recipe, Materializer(llama)) is recipe


def test_the_base_takes_part_where_it_has_a_share_of_its_own(llama: Family) -> None:
    """A Karcher mean is not θ₀ + Σ wδ: the base's own weight is written too, in `linear`."""
    recipe = candidates(llama, "karcher", 1)[0]
    frozen = freeze(recipe, Materializer(llama))
    assert frozen.method == "linear" and frozen.settings == {"normalize": False}
    assert frozen.slices[0].sources[0].model == llama.ref
    assert freeze(candidates(llama, "lines", 1)[0], Materializer(llama)).method == "task_arithmetic"


def test_names_that_are_a_part_of_another_name(llama: Family) -> None:
    """A filter matches any name that it is a part of, so the longer name must come first."""
    recipe = candidates(llama, "lines", 1, schedule="each")[0]
    for source in freeze(recipe, Materializer(llama)).slices[0].sources:
        rules = source.settings["weight"]
        assert isinstance(rules, tuple)
        filters = [rule.filter for rule in rules]  # type: ignore[union-attr]
        assert filters[-1] is None
        for place, text in enumerate(filters[:-1]):
            assert not any(str(text) in str(later) for later in filters[place + 1 : -1])
