"""Adapters against peft's own merge, kind by kind, and the refusals."""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from evomerge.errors import ExpertError
from evomerge.kernels.factors import Factors
from evomerge.models.adapter import Adapter, is_adapter

Q = "model.layers.0.self_attn.q_proj.weight"


def llama(vocab_size: int = 40, hidden_size: int = 32, tied: bool = False, biased: bool = False) -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            attention_bias=biased,
        )
    )


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=16, tie_word_embeddings=False)
    )


def t5() -> nn.Module:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    )


def biased_llama() -> nn.Module:
    return llama(biased=True)


def tied_llama() -> nn.Module:
    return llama(tied=True)


def save(model: nn.Module, folder: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Saves a random adapter; returns the base's parameters and those that peft merges."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with warnings.catch_warnings():  # peft remarks on Conv1D, tied weights and saved embeddings
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 6, **options}))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
        adapted.save_pretrained(str(folder))
        merged = adapted.merge_and_unload()
    return base, dict(merged.named_parameters())


def apply(adapter: Adapter, name: str, base: dict[str, Tensor]) -> Tensor:
    update = adapter.update(name, base.__getitem__)
    if update is None:
        return base[name]
    return base[name] + update.delta() if isinstance(update, Factors) else update


ATTENTION = ["q_proj", "v_proj"]
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "plain": (llama, {"target_modules": ATTENTION}),
    "rslora": (llama, {"target_modules": ATTENTION, "use_rslora": True}),
    "gaussian": (llama, {"target_modules": ATTENTION, "init_lora_weights": "gaussian"}),
    "orthogonal": (llama, {"target_modules": ATTENTION, "init_lora_weights": "orthogonal"}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 6},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 20, "v_proj": 3},
            "use_rslora": True,
        },
    ),
    "all-linear": (llama, {"target_modules": "all-linear"}),
    "one layer": (llama, {"target_modules": ATTENTION, "layers_to_transform": [1]}),
    "dora": (llama, {"target_modules": ["q_proj", "k_proj", "down_proj"], "use_dora": True}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding and head": (llama, {"target_modules": ["embed_tokens", "lm_head"]}),
    "embedding dora": (llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "tied embedding": (tied_llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "modules_to_save": (llama, {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "norm"]}),
    "lora_bias": (biased_llama, {"target_modules": ATTENTION, "lora_bias": True}),
    "bias all": (biased_llama, {"target_modules": ATTENTION, "bias": "all"}),
    "bias lora_only": (biased_llama, {"target_modules": ATTENTION, "bias": "lora_only"}),
    "lora_bias and bias all": (biased_llama, {"target_modules": ATTENTION, "lora_bias": True, "bias": "all"}),
    "tokens": (llama, {"target_modules": ATTENTION, "trainable_token_indices": [3, 1, 7]}),
    "tokens by name": (
        llama,
        {"target_modules": ATTENTION, "trainable_token_indices": {"embed_tokens": [2], "lm_head": [5, 6]}},
    ),
    "tied tokens": (tied_llama, {"target_modules": ATTENTION, "trainable_token_indices": [3, 1, 7]}),
    "parameters": (
        llama,
        {
            "target_modules": [],
            "target_parameters": ["q_proj.weight", "mlp.down_proj.weight"],
            "rank_pattern": {"q_proj.weight": 2},
        },
    ),
    "conv1d": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "conv1d flagged": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "conv1d square": (gpt2, {"target_modules": ["attn.c_proj"]}),
    "conv1d and linear": (gpt2, {"target_modules": ["c_attn", "c_proj", "lm_head"]}),
    "conv1d dora": (gpt2, {"target_modules": ["c_attn", "c_proj", "wte"], "use_dora": True}),
    "conv1d bias": (
        gpt2,
        {"target_modules": ["c_attn"], "bias": "all", "lora_bias": True, "modules_to_save": ["ln_f"]},
    ),
    "conv1d parameters": (
        gpt2,
        {"target_modules": [], "target_parameters": ["c_attn.weight", "c_proj.weight"]},
    ),
    "t5": (t5, {"target_modules": ["q", "v", "wo"]}),
    "t5 embedding": (t5, {"target_modules": ["shared", "k"]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_becomes_what_peft_merges(kind: str, tmp_path: Path) -> None:
    build, options = KINDS[kind]
    base, merged = save(build(), tmp_path, **options)
    adapter = Adapter(tmp_path)
    assert adapter.problems({name: tuple(tensor.shape) for name, tensor in base.items()}) == []
    before = {name: tensor.clone() for name, tensor in base.items()}
    for name in base:
        torch.testing.assert_close(apply(adapter, name, base), merged[name].data, rtol=0, atol=1e-6)
        assert torch.equal(base[name], before[name]), f"{name} was written to"
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed and changed <= set(adapter.names()) <= set(base)


FACTOR_KINDS = ["plain", "rslora", "patterns", "all-linear", "embedding", "conv1d", "parameters", "t5"]


@pytest.mark.parametrize("kind", FACTOR_KINDS)
def test_plain_kinds_stay_factors_and_ask_the_base_for_shapes_only(kind: str, tmp_path: Path) -> None:
    build, options = KINDS[kind]
    base, _ = save(build(), tmp_path, **options)
    adapter = Adapter(tmp_path)
    for name in adapter.names():
        # An embedding comes with a copy of the base's, which has to be compared.
        read = base.__getitem__ if kind == "embedding" else lambda name: base[name].to("meta")
        update = adapter.update(name, read)
        assert isinstance(update, Factors)
        assert (update.up.shape[0], update.down.shape[1]) == tuple(base[name].shape)
        assert update.up.shape[1] == update.down.shape[0] <= 6
    assert adapter.update("model.norm.weight", base.__getitem__) is None


def test_square_conv1d_beside_a_linear_head_is_read_from_its_neighbours(tmp_path: Path) -> None:
    base, merged = save(gpt2(), tmp_path, target_modules=["c_attn", "attn.c_proj", "lm_head"])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is False  # peft describes the head; the Conv1D layers are the other way round
    name = "transformer.h.1.attn.c_proj.weight"
    torch.testing.assert_close(apply(Adapter(tmp_path), name, base), merged[name].data, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["dora", "modules_to_save", "tokens", "lora_bias"])
def test_a_half_precision_base_is_updated_in_fp32_and_left_alone(kind: str, tmp_path: Path) -> None:
    build, options = KINDS[kind]
    base, _ = save(build(), tmp_path, **options)
    halves = {name: tensor.bfloat16() for name, tensor in base.items()}
    adapter = Adapter(tmp_path)
    for name in adapter.names():
        before = halves[name].clone()
        update = adapter.update(name, halves.__getitem__)
        assert isinstance(update, Factors) or (update is not None and update.dtype == torch.float32)
        assert torch.equal(halves[name], before)


def test_half_precision_factors_are_multiplied_in_fp32(tmp_path: Path) -> None:
    base, _ = save(llama(), tmp_path, target_modules=["q_proj"])
    edit(tmp_path, lambda tensors: {key: tensor.bfloat16() for key, tensor in tensors.items()})
    update = Adapter(tmp_path).update(Q, base.__getitem__)
    assert isinstance(update, Factors) and update.up.dtype == update.down.dtype == torch.bfloat16
    assert torch.equal(update.delta(), update.scale * (update.up.float() @ update.down.float()))


def test_an_embedding_trained_on_another_base_brings_its_own(tmp_path: Path) -> None:
    base, merged = save(llama(), tmp_path, target_modules=["embed_tokens"])
    name = "model.embed_tokens.weight"
    other = {**base, name: base[name] + 1}
    update = Adapter(tmp_path).update(name, other.__getitem__)
    assert isinstance(update, Tensor)
    torch.testing.assert_close(update, merged[name].data, rtol=0, atol=1e-6)


def test_a_copy_of_the_embedding_in_half_precision_is_still_the_bases(tmp_path: Path) -> None:
    base, _ = save(llama(), tmp_path, target_modules=["embed_tokens"])
    edit(tmp_path, lambda tensors: {key: tensor.bfloat16() for key, tensor in tensors.items()})
    assert isinstance(Adapter(tmp_path).update("model.embed_tokens.weight", base.__getitem__), Factors)


def test_an_adapter_survives_pickling(tmp_path: Path) -> None:
    base, merged = save(llama(), tmp_path, target_modules=["q_proj"])
    adapter = pickle.loads(pickle.dumps(Adapter(tmp_path)))
    torch.testing.assert_close(apply(adapter, Q, base), merged[Q].data, rtol=0, atol=1e-6)


def test_folders_are_told_apart(tmp_path: Path) -> None:
    save(llama(), tmp_path / "adapter", target_modules=["q_proj"])
    llama().save_pretrained(tmp_path / "checkpoint")
    assert is_adapter(tmp_path / "adapter") and not is_adapter(tmp_path / "checkpoint")
    assert Adapter(tmp_path / "adapter").base_model is None


# Refusals


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    save_file(change(tensors), path)


def configure(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path) -> str:
    with pytest.raises(ExpertError) as caught:
        Adapter(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    return message


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    save(llama(), tmp_path, target_modules=["q_proj"])
    return tmp_path


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"kasa_config": {"beta": 1.0}}, "kasa_config"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ],
)
def test_unsupported_kinds_are_refused_by_name(plain: Path, values: dict[str, Any], named: str) -> None:
    configure(plain, **values)
    message = refusal(plain)
    assert named in message and "merge_and_unload" in message


def test_a_pissa_adapter_is_refused(tmp_path: Path) -> None:
    save(llama(), tmp_path, target_modules=["q_proj"], init_lora_weights="pissa")
    assert "pissa" in refusal(tmp_path)


def test_an_unknown_tensor_of_an_adapted_module_is_refused(plain: Path) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_diag"
    edit(plain, lambda tensors: {**tensors, key: torch.ones(4)})
    assert key in refusal(plain)


def test_a_convolution_is_refused(plain: Path) -> None:
    edit(plain, lambda tensors: {key: tensor[:, :, None, None] for key, tensor in tensors.items()})
    assert "convolution" in refusal(plain)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_missing_partner_is_named(plain: Path, letter: str) -> None:
    key = f"base_model.model.{Q.removesuffix('.weight')}.lora_{letter}.weight"
    edit(plain, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key})
    message = refusal(plain)
    assert Q in message and f"lora_{letter}" in message


@pytest.mark.parametrize("value", ["false", "true", 1])
def test_a_truth_value_that_is_text_or_a_number_is_refused(plain: Path, value: object) -> None:
    """Text is true in Python, so "false" would scale the adapter as rsLoRA."""
    configure(plain, use_rslora=value)
    assert "use_rslora" in refusal(plain) and "true or false" in refusal(plain)


def test_a_rank_that_is_not_the_configured_one_is_refused(plain: Path) -> None:
    configure(plain, r=8)
    assert "ranks 4 and 4" in refusal(plain) and "8" in refusal(plain)


def test_a_count_of_trained_tokens_that_is_not_the_configured_one_is_refused(tmp_path: Path) -> None:
    save(llama(), tmp_path, target_modules=["q_proj"], trainable_token_indices=[1, 2])
    configure(tmp_path, trainable_token_indices=[1])
    assert "trainable_token_indices lists 1" in refusal(tmp_path)


def test_a_truncated_file_is_named(plain: Path) -> None:
    path = plain / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in refusal(plain)


def test_a_git_lfs_pointer_is_recognised(plain: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234\n"
    (plain / "adapter_model.safetensors").write_text(pointer)
    assert "git lfs pull" in refusal(plain)


def test_pickled_weights_are_refused_with_the_way_out(plain: Path) -> None:
    (plain / "adapter_model.safetensors").rename(plain / "adapter_model.bin")
    assert "save_pretrained" in refusal(plain)


def test_missing_files_and_broken_json_are_named(plain: Path) -> None:
    (plain / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refusal(plain)
    (plain / "adapter_config.json").write_text("{")
    assert "adapter_config.json" in refusal(plain)
    (plain / "adapter_config.json").unlink()
    assert "adapter_config.json" in refusal(plain)


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_every_tensor_of_another_bases_adapter_is_listed(tmp_path: Path) -> None:
    save(llama(), tmp_path, target_modules=["q_proj", "down_proj"])
    adapter = Adapter(tmp_path)
    for other in (llama(hidden_size=64), gpt2()):
        problems = adapter.problems(shapes_of(other))
        assert [line.partition(":")[0] for line in problems] == list(adapter.names())
    assert "[32, 32] in the adapter, [64, 64]" in adapter.problems(shapes_of(llama(hidden_size=64)))[1]
    wider = {name: parameter.detach() for name, parameter in llama(hidden_size=64).named_parameters()}
    with pytest.raises(ExpertError, match=Q):
        adapter.update(Q, wider.__getitem__)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
    ],
)
def test_a_resized_vocabulary_is_recognised(options: dict[str, Any], tmp_path: Path) -> None:
    save(llama(vocab_size=44), tmp_path, **options)
    (problem,) = Adapter(tmp_path).problems(shapes_of(llama(vocab_size=40)))
    assert "44 rows in the adapter, 40 in the base" in problem


def test_trained_tokens_beyond_the_vocabulary_are_recognised(tmp_path: Path) -> None:
    save(llama(vocab_size=44), tmp_path, target_modules=["q_proj"], trainable_token_indices=[2, 43])
    (problem,) = Adapter(tmp_path).problems(shapes_of(llama(vocab_size=40)))
    assert problem.startswith("model.embed_tokens.weight: token 43")
