"""The projections with which layers add to the residual stream: scaling them by s scales what each part adds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from evomerge.errors import ConfigError
from evomerge.models.family import Family
from evomerge.models.output_projections import output_filters
from evomerge.recipes.recipe import ModelRef
from tests.families import shift

SIZES: dict[str, Any] = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 64}
FOUND: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "llama": ({}, ("o_proj", "down_proj")),
    "qwen3": ({}, ("o_proj", "down_proj")),
    "gemma": ({}, ("o_proj", "down_proj")),
    "granite": ({}, ("o_proj", "down_proj")),
    "cohere": ({}, ("o_proj", "down_proj")),  # parallel
    "phi3": ({"pad_token_id": 0}, ("o_proj", "down_proj")),  # makes o_proj before qkv_proj
    "phi": ({}, ("dense", "fc2")),
    "gpt2": (GPT2, ("attn.c_proj", "mlp.c_proj")),
    "gpt_neox": ({}, ("attention.dense", "dense_4h_to_h")),
    "opt": ({"ffn_dim": 24, "word_embed_proj_dim": 16}, ("out_proj", "fc2")),
    "starcoder2": ({}, ("o_proj", "c_proj")),
    "bloom": ({}, ("self_attention.dense", "dense_4h_to_h")),
}
REFUSED = {"gemma2": "post_feedforward_layernorm", "olmo2": "post_feedforward_layernorm", "mamba": "cannot be found"}


def saved(model_type: str, settings: Mapping[str, Any], folder: Path) -> Family:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **settings}))
    shift(model, 0.2, seed=0)
    model.save_pretrained(folder)
    return Family(ModelRef(str(folder)), [])


def added(model: PreTrainedModel, path: str) -> Tensor:
    """What the first layer adds to the residual stream."""
    layers = model.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        seen.append((output[0] if isinstance(output, tuple) else output) - state)

    handle = layers[0].register_forward_hook(keep, with_kwargs=True)
    with torch.inference_mode():
        model(torch.tensor([[3, 1, 4, 15, 9, 2]]))
    handle.remove()
    return seen[0]


def scaled(family: Family, factors: Mapping[str, float]) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(family.base.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, path in family.base.parameter.items():
            for text, factor in factors.items():
                if text in name:
                    model.get_parameter(path).mul_(factor)
    return model


@pytest.mark.parametrize("model_type", FOUND)
def test_scaled_projections_scale_what_each_part_adds(model_type: str, tmp_path: Path) -> None:
    settings, wanted = FOUND[model_type]
    family = saved(model_type, settings, tmp_path)
    filters = output_filters(family.base)
    assert filters == wanted
    (path,) = family.layout.stacks
    path = path if path.startswith(("model", "transformer", "gpt_neox")) else f"transformer.{path}"
    attention, mlp = filters
    assert added(scaled(family, {attention: 0.0, mlp: 0.0}), path).abs().max() == 0.0
    for alone, other in ((attention, mlp), (mlp, attention)):
        whole = added(scaled(family, {other: 0.0}), path)
        half = added(scaled(family, {other: 0.0, alone: 0.5}), path)
        assert whole.abs().max() > 1e-3
        assert torch.allclose(half, 0.5 * whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model_type", REFUSED)
def test_other_layers_are_refused(model_type: str, tmp_path: Path) -> None:
    family = saved(model_type, {}, tmp_path)
    with pytest.raises(
        ConfigError, match=rf"^space\.flow\.scale: .*{REFUSED[model_type]}.*; leave out space.flow.scale$"
    ):
        output_filters(family.base)
