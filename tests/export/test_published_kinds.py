"""Documents of the kinds that mergekit's examples have, with tiny models of the same architectures and layer counts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from evomerge import methods
from evomerge.errors import EvomergeError
from evomerge.export import merge_recipe

LLAMA_LAYERS, MISTRAL_LAYERS = 40, 32
SIZES = {"hidden_size": 8, "intermediate_size": 12, "vocab_size": 32, "num_attention_heads": 2}
MISTRALS = ("medicine", "chat", "mistral")
DOCUMENTS = {
    "fusion of two, one of which is the base": """
        merge_method: arcee_fusion
        base_model: first
        models: [{model: first}, {model: second}]
        dtype: bfloat16
        """,
    "sign election without normalising, with a memory option of mergekit": """
        merge_method: ties
        base_model: mistral
        models:
        - {model: medicine, parameters: {density: 0.4, weight: 0.6}}
        - {model: chat, parameters: {density: 0.4, weight: 0.6}}
        parameters: {normalize: false, int8_mask: true}
        dtype: float16
        """,
    "a spherical path with a gradient for each kind of layer, as slices": """
        merge_method: slerp
        base_model: first
        slices: [{sources: [{model: first, layer_range: [0, 40]}, {model: second, layer_range: [0, 40]}]}]
        parameters:
          t:
          - {filter: self_attn, value: [0, 0.4, 1]}
          - {filter: mlp, value: [1, 0.6, 0]}
          - value: 0.5
        dtype: float16
        """,
    "a weighted mean without a base": """
        merge_method: linear
        models:
        - {model: first, parameters: {weight: 1.0}}
        - {model: second, parameters: {weight: 0.25}}
        - {model: third, parameters: {weight: 0.5}}
        dtype: float16
        """,
    "sign election with gradients and filters": """
        merge_method: ties
        base_model: base
        models:
        - {model: first, parameters: {density: [1, 0.6, 0.2], weight: 1.0}}
        - {model: second, parameters: {density: 0.5, weight: [0, 0.5, 1]}}
        - {model: third, parameters: {density: 0.3, weight: [{filter: mlp, value: 0.5}, {value: 0}]}}
        parameters: {normalize: true, int8_mask: true}
        dtype: float16
        """,
}
STACKED = """
    merge_method: passthrough
    slices:
    - sources: [{model: first, layer_range: [0, 24]}]
    - sources: [{model: second, layer_range: [20, 40]}]
    dtype: float16
    """


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-ins in float16."""
    folder = tmp_path_factory.mktemp("models")
    llama = LlamaConfig(**SIZES, num_hidden_layers=LLAMA_LAYERS)
    mistral = MistralConfig(**SIZES, num_hidden_layers=MISTRAL_LAYERS, num_key_value_heads=1)
    for seed, name in enumerate(("base", "first", "second", "third", *MISTRALS)):
        made = MistralForCausalLM(mistral) if name in MISTRALS else LlamaForCausalLM(llama)
        made.half().save_pretrained(folder / name)
        draw = torch.Generator().manual_seed(seed)
        tensors = load_file(folder / name / "model.safetensors")
        drawn = {key: (torch.randn(value.shape, generator=draw) * 0.1).half() for key, value in tensors.items()}
        save_file(drawn, folder / name / "model.safetensors", metadata={"format": "pt"})
    return folder


def build(document: str, out: Path) -> dict[str, torch.Tensor]:
    path = out.with_suffix(".yaml")
    path.write_text(document)
    merge_recipe(path, out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_each_kind_merges(kind: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    document = DOCUMENTS[kind]
    merged = build(document, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    layers = MISTRAL_LAYERS if "mistral" in document else LLAMA_LAYERS
    dtype = "bfloat16" if "bfloat16" in document else "float16"
    assert config["num_hidden_layers"] == layers and config["dtype"] == dtype
    assert f"model.layers.{layers - 1}.mlp.up_proj.weight" in merged
    assert all(tensor.isfinite().all() and str(tensor.dtype) == f"torch.{dtype}" for tensor in merged.values())
    first = load_file(models / ("mistral" if "mistral" in document else "first") / "model.safetensors")
    assert not all(torch.equal(merged[name].half(), first[name]) for name in first)


def test_slices_over_all_layers_are_models(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    document = DOCUMENTS["a spherical path with a gradient for each kind of layer, as slices"]
    lines = [line for line in document.splitlines() if "slices:" not in line]
    plain = "\n".join([*lines[:3], "        models: [{model: first}, {model: second}]", *lines[3:]])
    one, other = build(document, tmp_path / "slices"), build(plain, tmp_path / "plain")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_stacked_layers(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by the name of the method where there is no such method, else 44 layers."""
    monkeypatch.chdir(models)
    if "passthrough" not in methods.names():
        with pytest.raises(EvomergeError, match="merge method 'passthrough' is not known"):
            build(STACKED, tmp_path / "out")
        return
    merged = build(STACKED, tmp_path / "out")
    second = load_file(models / "second" / "model.safetensors")
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(merged[name.format(43)], second[name.format(39)]) and name.format(44) not in merged
