"""Mixtures of experts: stored tensors in stacked parameters, two ways of storing them, and files that do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ExpertError
from evomerge.export.folder import export_recipe, merge_recipe
from evomerge.models.family import Family
from evomerge.models.groups import Layout
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import ModelRef, Source, recipe_of_models
from tests.models.mixtures import DEEPSEEK, FILE, edit, family_of, merged, mixture

pytestmark = pytest.mark.filterwarnings("ignore")
W1, W2, W3 = (f"model.layers.1.block_sparse_moe.experts.2.{name}.weight" for name in ("w1", "w2", "w3"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mixture("mixtral", tmp_path / "base", 0)
    mixture("mixtral", tmp_path / "e0", 1)
    return tmp_path


def compare(found: Any, wanted: Any) -> None:
    theirs = dict(wanted.named_parameters())
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(
            parameter, theirs[name], rtol=1e-6, atol=1e-6, msg=lambda why, at=name: f"{at}: {why}"
        )


def test_an_experts_matrix_is_a_view_of_the_stack(root: Path) -> None:
    family = family_of(root)
    model = load_model(root / "base", dtype="float32")
    places = family.base.live_tensors(model)
    gate_up = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
    for name, rows in ((W1, slice(0, 24)), (W3, slice(24, 48))):
        direct = places[name].direct
        assert direct is not None and direct.data_ptr() == gate_up[2, rows].data_ptr()
        assert torch.equal(direct, load_file(root / "base" / FILE)[name])


def test_random_numbers_differ_between_the_experts_of_a_layer(root: Path) -> None:
    keys = [place.key for place in family_of(root).base.destination.values()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear"])
@pytest.mark.parametrize(("base", "expert"), [(False, True), (True, False), (True, True)])
def test_stacks_may_be_stored_together_or_apart(method: str, base: bool, expert: bool, tmp_path: Path) -> None:
    """With one expert of weight 1 the merge is the expert, whatever its tensors are called in the files."""
    mixture("qwen3_moe", tmp_path / "base", 0, together=base)
    wanted = mixture("qwen3_moe", tmp_path / "e0", 1, together=expert)
    settings = {"density": 1.0} if method == "dare_linear" else {}
    compare(merged(family_of(tmp_path, "e0"), method=method, **settings), wanted)


def test_the_exported_folder_has_the_names_of_the_base(root: Path) -> None:
    mixture("mixtral", root / "e1", 2, together=True)
    family = family_of(root, "e0", "e1")
    recipe = recipe_of_models(
        "task_arithmetic", family.ref, tuple(Source(ref, {"weight": 0.5}) for ref in family.experts), {}
    )
    export_recipe(recipe, family, root / "out")
    assert load_file(root / "out" / FILE).keys() == load_file(root / "base" / FILE).keys()
    compare(load_model(root / "out", dtype="float32"), merged(family, 0.5))


def refusal(root: Path) -> str:
    with pytest.raises(ExpertError) as caught:
        family_of(root, "e0")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("who", ["base", "e0"])
@pytest.mark.parametrize("name", [W1, W2, W1.replace("experts.2", "experts.3"), W1.replace("experts.2", "experts.0")])
def test_a_missing_expert_is_named(root: Path, who: str, name: str) -> None:
    edit(root / who, **{name: None})
    line = refusal(root)
    assert name in line and line.count("experts.") == 1, line


def test_a_router_of_another_size(root: Path) -> None:
    gate = "model.layers.1.block_sparse_moe.gate.weight"
    edit(root / "e0", **{gate: torch.randn(3, 16)})
    assert f"{gate} [3, 16] (base [4, 16])" in refusal(root)
    edit(root / "base", **{gate: torch.randn(3, 16)})
    assert f"{gate} is [3, 16], config.json wants [4, 16]" in refusal(root)


def test_another_number_of_experts(root: Path) -> None:
    mixture("mixtral", root / "e0", 1, num_local_experts=6, num_experts=6)
    line = refusal(root)
    assert "num_local_experts 6 (base 4)" in line and "block_sparse_moe" in line


def test_experts_of_another_width(root: Path) -> None:
    mixture("mixtral", root / "e0", 1, intermediate_size=32)
    assert "experts.0.w1.weight, of model.layers.0.mlp.experts.gate_up_proj [4, 64, 16] (base [4, 48, 16])" in refusal(
        root
    )


def test_an_expert_of_another_shape_than_its_neighbours(root: Path) -> None:
    edit(root / "e0", **{W1: torch.randn(23, 16)})
    line = refusal(root)
    assert "gate_up_proj: its parts do not fit together (shapes [24, 16] and [23, 16])" in line


@pytest.mark.parametrize(
    ("kind", "router", "shared"),
    [
        ("mixtral", 2, 0),
        ("olmoe", 2, 0),
        ("qwen2_moe", 2, 8),
        ("deepseek_v3", 1, 3),
        ("granitemoe", 2, 0),
        ("gpt_oss", 4, 0),
    ],
)
def test_components_of_a_mixture(kind: str, router: int, shared: int, tmp_path: Path) -> None:
    sizes = {**DEEPSEEK, "num_key_value_heads": 2}
    mixture(kind, tmp_path / "base", **(sizes if kind == "deepseek_v3" else {}))
    family = Family(ModelRef(str(tmp_path / "base")), [])
    components = ["experts", "attention", "router", *(["shared_experts"] if shared else [])]
    layout = family.layout
    assert isinstance(layout, Layout)
    groups = {group.name: group for group in layout.groups(components, "joint")}
    left = [name for name in layout.names if "layers." in name]
    counts = {}
    for name in ("attention", "router", *(["shared_experts"] if shared else []), "experts"):
        texts = [text for text in groups[name].filters if text]
        mine = [n for n in left if any(text in known for text in texts for known in layout.names_of(n))]
        left = [n for n in left if n not in mine]
        counts[name] = mine
    assert len(counts["router"]) == router and len(counts.get("shared_experts", ())) == shared
    assert counts["experts"] and not any("expert" in name or "gate.weight" in name for name in left)


@pytest.mark.parametrize("together", [False, True])
def test_stacked_layers(together: bool, tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "e0")):
        mixture("mixtral", tmp_path / name, seed, together=together)
    base, expert = tmp_path / "base", tmp_path / "e0"
    (tmp_path / "recipe.yaml").write_text(
        f"""
merge_method: linear
slices:
- sources:
  - {{model: {base}, layer_range: [0, 2], parameters: {{weight: 0.5}}}}
  - {{model: {expert}, layer_range: [0, 2], parameters: {{weight: 0.5}}}}
- sources:
  - {{model: {expert}, layer_range: [1, 2], parameters: {{weight: 1.0}}}}
dtype: float32
"""
    )
    merge_recipe(tmp_path / "recipe.yaml", tmp_path / "out")
    one, two, found = (load_model(folder, dtype="float32") for folder in (base, expert, tmp_path / "out"))
    assert found.config.num_hidden_layers == 3
    for name, parameter in found.named_parameters():
        if "layers.2" in name:
            assert torch.equal(parameter, two.get_parameter(name.replace("layers.2", "layers.1")))
        elif "layers" in name:
            torch.testing.assert_close(parameter, (one.get_parameter(name) + two.get_parameter(name)) / 2)
