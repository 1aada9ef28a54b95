"""Adapters of experts, routers and attention, against `merge_and_unload` of peft."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from evomerge.errors import ConfigError, ExpertError
from evomerge.export.adapter import export_adapter
from evomerge.kernels import Factors
from evomerge.recipes.recipe import Source, recipe_of_models
from tests.models.mixtures import family_of, merged, mixture

pytestmark = pytest.mark.filterwarnings("ignore")
ROUTER = {"gpt_oss": "router.weight"}


def train(base: PreTrainedModel, folder: Path, **config: Any) -> None:
    """An adapter with random factors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(base, LoraConfig(**{"r": 2, "lora_alpha": 3, **config}))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)


def unloaded(root: Path) -> dict[str, Tensor]:
    base = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, root / "adapter").merge_and_unload()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def compare(root: Path) -> None:
    found = merged(family_of(root, adapter="adapter"))
    base = dict(AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32).named_parameters())
    wanted = unloaded(root)
    assert wanted.keys() == dict(found.named_parameters()).keys()
    assert sum(not torch.equal(base[name], tensor) for name, tensor in wanted.items()) >= 2
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(
            parameter, wanted[name], rtol=1e-5, atol=1e-5, msg=lambda why, at=name: f"{at}: {why}"
        )


@pytest.mark.parametrize("kind", ["mixtral", "olmoe", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize(
    "targets",
    [
        ["experts.gate_up_proj", "experts.down_proj", "gate.weight"],
        ["experts.down_proj"],
        ["gate_up_proj"],
        ["gate.weight"],
    ],
    ids=["all", "down", "gate_up", "router"],
)
@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
def test_an_adapter_of_stacked_experts(kind: str, targets: list[str], together: bool, tmp_path: Path) -> None:
    base = mixture(kind, tmp_path / "base", together=together)
    listed = [ROUTER.get(kind, name) if name == "gate.weight" else name for name in targets]
    train(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=listed)
    compare(tmp_path)


def test_ranks_and_scales_of_patterns(tmp_path: Path) -> None:
    base = mixture("mixtral", tmp_path / "base")
    patterns = {"rank_pattern": {"experts.down_proj": 3}, "alpha_pattern": {"experts.gate_up_proj": 7}}
    listed = ["experts.gate_up_proj", "experts.down_proj"]
    train(base, tmp_path / "adapter", target_modules=[], target_parameters=listed, use_rslora=True, **patterns)
    compare(tmp_path)


def test_experts_stay_factors(tmp_path: Path) -> None:
    base = mixture("mixtral", tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=[], target_parameters=["experts.gate_up_proj"])
    family = family_of(tmp_path, adapter="adapter")
    (ref,) = family.experts
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    update = family.update(ref, name)
    assert isinstance(update, Factors) and update.up.shape == (24, 2) and update.down.shape == (2, 16)
    assert family.update(ref, name.replace("w3", "w2")) is None
    recipe = recipe_of_models("task_arithmetic", family.ref, (Source(ref, {"weight": 1.0}),), {})
    with pytest.raises(ConfigError, match=r"experts.0.w1.weight is a part of .*gate_up_proj; merge without --adapter"):
        export_adapter(recipe, family, tmp_path / "out")


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_an_adapter_of_an_older_transformers_names_each_expert(kind: str, tmp_path: Path) -> None:
    base = mixture(kind, tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    torch.manual_seed(2)
    names = ("w1", "w2", "w3") if kind == "mixtral" else ("gate_proj", "down_proj", "up_proj")
    block = "block_sparse_moe" if kind == "mixtral" else "mlp"
    for layer in range(2):
        prefix = f"base_model.model.model.layers.{layer}.{block}"
        sizes = {f"{prefix}.gate": (4, 16)}
        for expert in range(4):
            for name, size in zip(names, ((24, 16), (16, 24), (24, 16)), strict=True):
                sizes[f"{prefix}.experts.{expert}.{name}"] = size
        for module, (rows, columns) in sizes.items():
            tensors |= {
                f"{module}.lora_A.weight": torch.randn(2, columns),
                f"{module}.lora_B.weight": torch.randn(rows, 2),
            }
    save_file(tensors, path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "gate", *names]
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    compare(tmp_path)


def test_an_adapter_of_single_experts_needs_their_tensors(tmp_path: Path) -> None:
    base = mixture("mixtral", tmp_path / "base", together=True)
    train(base, tmp_path / "adapter", target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    module = "base_model.model.model.layers.0.block_sparse_moe.experts.0.w1"
    more = {f"{module}.lora_A.weight": torch.randn(2, 16), f"{module}.lora_B.weight": torch.randn(24, 2)}
    save_file(load_file(path) | more, path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "w1"]
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ExpertError, match=r"experts.0.w1.weight: the base's files hold this weight together.*merge_and"
    ):
        family_of(tmp_path, adapter="adapter")


def test_a_rank_that_the_configuration_does_not_say(tmp_path: Path) -> None:
    base = mixture("mixtral", tmp_path / "base")
    train(base, tmp_path / "adapter", target_modules=[], target_parameters=["experts.down_proj"])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 3}))
    with pytest.raises(
        ExpertError, match=r"down_proj have ranks 8 and 8, adapter_config.json says 3 for each of 4 exp"
    ):
        family_of(tmp_path, adapter="adapter")
