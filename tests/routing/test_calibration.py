"""Routers fitted in a live mixture of experts, and the recipes that name their file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from evomerge.errors import CandidateError, ConfigError, ExpertError
from evomerge.merging import Materializer, freeze, keep_routers, read_routers, routers_at_hand, write_routers
from evomerge.models import Family, load_model
from evomerge.recipes import ModelRef, Recipe, Source, dump_recipe, load_recipe, recipe_of_models
from evomerge.routing import RouterDomain, RouterWork, calibrate_routers, refuse_other_routing, router_names
from tests.families import save_family, shift

SIZES = {
    "vocab_size": 37,
    "hidden_size": 12,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}
ROWS = tuple(tuple((3 * place + start) % 37 for place in range(20)) for start in range(12))
OTHER_ROWS = tuple(tuple((5 * place * place + start) % 37 for place in range(20)) for start in range(12))


def olmoe() -> PreTrainedModel:
    return OlmoeForCausalLM(OlmoeConfig(**SIZES, num_experts=4))


def save_models(model: PreTrainedModel, folder: Path) -> tuple[ModelRef, list[ModelRef]]:
    for name in ("base", "one", "two"):
        shift(model, 0.3, seed=len(name) + ord(name[0]))
        model.save_pretrained(folder / name)
    return ModelRef(str(folder / "base")), [ModelRef(str(folder / name)) for name in ("one", "two")]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    torch.manual_seed(0)
    return Family(*save_models(olmoe(), tmp_path_factory.mktemp("olmoe")))


def recipe_of(family: Family, weight: float = 0.4) -> Recipe:
    sources = tuple(Source(ref, {"weight": weight}) for ref in family.experts)
    return recipe_of_models("task_arithmetic", family.ref, sources, {"normalize": False})


def merged_model(family: Family, recipe: Recipe) -> PreTrainedModel:
    model = load_model(family.base.folder, dtype="float32")
    Materializer(family).write(recipe, model)
    return model


def work(family: Family) -> RouterWork:
    one, two = family.experts
    return RouterWork((RouterDomain(one, ROWS), RouterDomain(two, OTHER_ROWS)))


def test_each_layer_has_a_router(family: Family) -> None:
    assert router_names(family) == [f"model.layers.{layer}.mlp.gate.weight" for layer in range(2)]


def test_a_softmax_in_the_router_or_around_it_is_accepted(family: Family, tmp_path: Path) -> None:
    refuse_other_routing(family)
    torch.manual_seed(0)
    sizes = {**SIZES, "moe_intermediate_size": 8, "num_experts": 4, "head_dim": 6, "decoder_sparse_step": 1}
    refuse_other_routing(Family(*save_models(Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes)), tmp_path)))


def test_calibration_is_deterministic_changes_routers_and_leaves_the_model_as_it_was(family: Family) -> None:
    model = merged_model(family, recipe_of(family))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = [calibrate_routers(model, family, router_names(family), work(family)) for _ in range(2)]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    for name in router_names(family):
        assert torch.equal(found[0][name], found[1][name]) and found[0][name].dtype == torch.float32
        assert not torch.equal(found[0][name], before[name])


def test_the_routers_of_a_single_model_come_back(family: Family) -> None:
    """Where the merge is one expert and all texts are its own, its routers are the solution."""
    one, _ = family.experts
    recipe = recipe_of_models("task_arithmetic", family.ref, (Source(one, {"weight": 1.0}),), {"normalize": False})
    model = merged_model(family, recipe)
    found = calibrate_routers(model, family, router_names(family), RouterWork((RouterDomain(one, ROWS),)))
    for name, weight in found.items():
        assert torch.equal(weight, model.get_parameter(name))


def test_the_routing_of_the_texts_comes_nearer_to_that_of_their_models(family: Family) -> None:
    model, (one, two) = merged_model(family, recipe_of(family, 1.0)), family.experts
    (first, *_) = router_names(family)
    found = calibrate_routers(model, family, [first], work(family))[first]

    def divergence(weight: torch.Tensor) -> float:
        total = 0.0
        for ref, rows in ((one, ROWS), (two, OTHER_ROWS)):
            seen: list[torch.Tensor] = []
            router = model.model.layers[0].mlp.gate
            hook = router.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(-1, 12)))  # noqa: B023
            model(input_ids=torch.tensor(rows))
            hook.remove()
            own = family.update(ref, first)
            assert isinstance(own, torch.Tensor)
            wanted, routed = ((seen[0] @ matrix.T).log_softmax(-1) for matrix in (own, weight))
            total += float((wanted.exp() * (wanted - routed)).sum(-1).mean())
        return total

    assert divergence(found) < divergence(model.get_parameter(first))


def test_gates_of_their_own_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**SIZES, "q_lora_rank": None, "kv_lora_rank": 4, "qk_nope_head_dim": 6, "qk_rope_head_dim": 2}
    sizes |= {"v_head_dim": 6, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 8}
    config = DeepseekV3Config(**sizes, first_k_dense_replace=0)
    family = Family(*save_models(DeepseekV3ForCausalLM(config), tmp_path))
    with pytest.raises(ConfigError, match="does not choose by a softmax alone"):
        refuse_other_routing(family)


def test_a_model_without_routers_is_refused(tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path)
    with pytest.raises(ConfigError, match="has no routers"):
        router_names(Family(folders.base, folders.experts))


def test_a_router_with_a_bias_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**SIZES, "head_dim": 6, "num_local_experts": 4, "sliding_window": 8}
    family = Family(*save_models(GptOssForCausalLM(GptOssConfig(**sizes)), tmp_path))
    with pytest.raises(ConfigError, match="has a bias"):
        router_names(family)


# --- a recipe with a file of routers ---


@pytest.fixture
def calibrated(family: Family, tmp_path: Path) -> Recipe:
    recipe = recipe_of(family)
    found = calibrate_routers(merged_model(family, recipe), family, router_names(family), work(family))
    return recipe.with_routers(write_routers(found, tmp_path / "routers.safetensors"))


def test_the_routers_of_the_file_are_written_and_all_else_is_merged(family: Family, calibrated: Recipe) -> None:
    plain, model = merged_model(family, recipe_of(family)), merged_model(family, calibrated)
    assert calibrated.routers is not None
    routers = read_routers(calibrated.routers)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, routers.get(name, plain.get_parameter(name)))
    exported = dict(Materializer(family).tensors(calibrated))
    assert all(torch.equal(exported[name], weight) for name, weight in routers.items())


def test_the_key_and_the_file_of_a_recipe_hold_the_routers(family: Family, calibrated: Recipe, tmp_path: Path) -> None:
    assert calibrated.key() != recipe_of(family).key()
    (tmp_path / "recipe.yaml").write_text(dump_recipe(calibrated))
    assert load_recipe(tmp_path / "recipe.yaml") == calibrated
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("recipe.yaml", "routers.safetensors"):
        (tmp_path / name).rename(moved / name)
    found = load_recipe(moved / "recipe.yaml")
    assert found.key() == calibrated.key() and found.routers and Path(found.routers.path).parent == moved
    assert freeze(found, Materializer(family)).routers == calibrated.routers


def test_another_file_and_a_missing_file_are_one_line(family: Family, calibrated: Recipe) -> None:
    assert calibrated.routers is not None
    path = Path(calibrated.routers.path)
    with pytest.raises(ExpertError, match="not the routers that the recipe was scored with"):
        merged_model(family, calibrated.with_routers(replace(calibrated.routers, sha256="0" * 64)))
    read_routers.cache_clear()
    path.unlink()
    with pytest.raises(ExpertError, match="needs this file of calibrated routers beside it"):
        merged_model(family, calibrated)


def test_routers_of_another_model_are_refused(family: Family, tmp_path: Path) -> None:
    wrong = write_routers({"model.layers.7.mlp.gate.weight": torch.zeros(4, 12)}, tmp_path / "routers.safetensors")
    with pytest.raises(CandidateError, match="is no router of"):
        merged_model(family, recipe_of(family).with_routers(wrong))


def test_a_file_of_routers_goes_with_the_recipe(calibrated: Recipe, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    keep_routers(calibrated, other)
    (other / "recipe.yaml").write_text(dump_recipe(calibrated))
    found = load_recipe(other / "recipe.yaml")
    assert found.routers is not None and read_routers(found.routers)


def test_another_machine_gets_the_content_of_the_file(
    family: Family, calibrated: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    assert calibrated.routers is not None
    data = Path(calibrated.routers.path).read_bytes()
    assert routers_at_hand(calibrated, data) is calibrated
    there = calibrated.with_routers(replace(calibrated.routers, path="/nowhere/routers.safetensors"))
    found = routers_at_hand(there, data)
    assert found.key() == there.key() and found.routers and Path(found.routers.path).is_file()
    name = router_names(family)[0]
    assert torch.equal(*(merged_model(family, recipe).get_parameter(name) for recipe in (found, calibrated)))
