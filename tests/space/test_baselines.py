"""The mandatory rows of a search, as recipes and as weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.recipes.recipe import ModelRef
from evomerge.space.baselines import (
    RESERVED,
    BaselinesConfig,
    load_baseline_recipe,
    mandatory_baselines,
    random_direction_recipe,
    textbook_recipe,
)
from evomerge.space.space import Space
from tests.families import Folders, save_family


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return save_family("llama", tmp_path_factory.mktemp("llama"), experts=2)


def make(folders: Folders, method: str, **changes: Any) -> tuple[Space, dict[str, ModelRef], Family]:
    experts = dict(zip(("math", "code"), folders.experts, strict=True))
    family = Family(folders.base, folders.experts)
    touched = [family.touched(ref) for ref in folders.experts]
    space = Space(method=method, base=folders.base, experts=experts, layout=family.layout, touched=touched, **changes)
    return space, experts, family


@pytest.mark.sampled(11)
@pytest.mark.parametrize("method", methods.names())
def test_base_and_experts_are_rebuilt_to_the_bit_whatever_is_searched(method: str, folders: Folders) -> None:
    space, experts, family = make(folders, method, out_dtype="float32", seed=5)
    rows = mandatory_baselines(space, folders.base, experts)
    assert list(rows) == ["base", "math", "code", "uniform", "default"]
    assert {(row.out_dtype, row.seed) for row in rows.values()} == {("float32", 5)}
    assert len({row.key() for row in rows.values()}) == 5
    materializer = Materializer(family)
    for label, ref in {"base": folders.base, **experts}.items():
        stored = load_file(Path(ref.path) / "model.safetensors")
        wanted = fingerprint((name, stored[name]) for name in family.layout.names)
        assert fingerprint(materializer.tensors(rows[label])) == wanted


def test_uniform_is_the_mean_of_the_experts(folders: Folders) -> None:
    space, experts, family = make(folders, "ties")
    merged = dict(Materializer(family).tensors(mandatory_baselines(space, folders.base, experts)["uniform"]))
    first, second = (load_file(Path(ref.path) / "model.safetensors") for ref in folders.experts)
    for name, tensor in merged.items():
        assert torch.allclose(tensor, (first[name] + second[name]) / 2, atol=1e-6)


def test_default_is_the_methods_own(folders: Folders) -> None:
    space, experts, _ = make(folders, "ties", components=("attention",))
    default = mandatory_baselines(space, folders.base, experts)["default"]
    assert default.method == "ties"
    assert [source.settings for source in default.slices[0].sources] == [{"weight": 0.5, "density": 0.2}] * 2


@pytest.mark.parametrize("label", RESERVED)
def test_an_expert_must_not_bear_a_baselines_name(label: str, folders: Folders) -> None:
    space, _, _ = make(folders, "ties")
    with pytest.raises(ConfigError, match=rf"^experts\.{label}: that name is a baseline's"):
        mandatory_baselines(space, folders.base, {label: folders.experts[0]})


def test_the_control_is_the_uniform_average_with_random_signs(folders: Folders) -> None:
    space, experts, family = make(folders, "ties", out_dtype="float32", seed=5)
    recipe = random_direction_recipe(space, folders.base, experts)
    assert (recipe.method, recipe.seed, recipe.out_dtype) == ("random_direction", 5, "float32")
    materializer, base = Materializer(family), load_file(Path(folders.base.path) / "model.safetensors")
    uniform = dict(materializer.tensors(mandatory_baselines(space, folders.base, experts)["uniform"]))
    for name, tensor in materializer.tensors(recipe):
        assert torch.allclose((tensor - base[name]).abs(), (uniform[name] - base[name]).abs(), atol=1e-5)
        assert not torch.equal(tensor, uniform[name])


def test_a_textbook_merge_has_the_methods_values_and_those_it_is_given(folders: Folders) -> None:
    space, _, _ = make(folders, "ties", out_dtype="float32", seed=5)
    assert textbook_recipe(space, {}) == space.decode(space.default_points()["default"])
    sources = textbook_recipe(space, {"density": 0.7}).slices[0].sources
    assert [source.settings for source in sources] == [{"weight": 0.5, "density": 0.7}] * 2


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"wieght": 0.5}, r"^genes: wieght is not a gene of ties.*weight"),
        ({"density": 7.0}, r"^.*7\.0.* is outside of what ties takes: .*density 0\.05 to 1"),
    ],
)
def test_a_textbook_merge_that_cannot_be_is_refused(genes: dict[str, float], message: str, folders: Folders) -> None:
    with pytest.raises(ConfigError, match=message):
        textbook_recipe(make(folders, "ties")[0], genes)


def test_a_recipe_of_any_origin_is_a_row_and_one_of_other_models_is_refused(folders: Folders, tmp_path: Path) -> None:
    first, second = folders.experts
    lines = [f"  - {{model: {ref}, parameters: {{weight: 0.3}}}}" for ref in folders.experts]
    text = "\n".join(["merge_method: task_arithmetic", f"base_model: {folders.base}", "models:", *lines])
    (tmp_path / "theirs.yml").write_text(text)
    recipe = load_baseline_recipe(str(tmp_path / "theirs.yml"), (folders.base, first, second))
    assert [source.settings["weight"] for source in recipe.slices[0].sources] == [0.3, 0.3]
    with pytest.raises(ConfigError, match=rf"theirs\.yml merges {second}; this search"):
        load_baseline_recipe(str(tmp_path / "theirs.yml"), (folders.base, first))


def test_no_two_rows_bear_one_name() -> None:
    with pytest.raises(ConfigError, match="^baselines: the name 'uniform' is taken"):
        BaselinesConfig(methods={"uniform": "ties"}).refuse_taken(())
    with pytest.raises(ConfigError, match="^baselines: the name 'math' is taken"):
        BaselinesConfig(recipes={"math": "a.yaml"}).refuse_taken(("math",))
    with pytest.raises(ConfigError, match="^baselines: the name 'mine' is taken"):
        BaselinesConfig(methods={"mine": "ties"}, recipes={"mine": "a.yaml"}).refuse_taken(())
