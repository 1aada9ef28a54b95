"""Tiny GGUF files, written by the `gguf` package as llama.cpp's converter names and permutes tensors."""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tests.families import shift

WORDS = [chr(place) for place in range(ord("a"), ord("z") + 1)] + ["ab", "cd", "<s>", "</s>", "<unk>", "<pad>"]
HEADS, KV_HEADS = 2, 1


def model(seed: int = 0) -> PreTrainedModel:
    """A Llama whose rows are whole blocks of 32 values."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": len(WORDS), "num_hidden_layers": 2}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    made = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True, max_position_embeddings=64))
    for parameter in made.parameters():
        parameter.data.zero_()
    shift(made, 0.3, seed)
    return made


def write(made: PreTrainedModel, path: Path, kind: GGMLQuantizationType = GGMLQuantizationType.Q4_0) -> Path:
    """The model as a GGUF file with matrices of this type."""
    config = made.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in made.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = _permuted(name, tensor).float().numpy()
        stem, _, suffix = name.rpartition(".")
        if values.ndim == 1:
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", values)
        else:
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_mixture(path: Path) -> Path:
    """A Qwen3-MoE in float16, whose experts are one tensor for each projection, as llama.cpp has them."""
    size, experts, width = 64, 4, 768  # transformers does not read the width, and 768 is its default
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(size)
    writer.add_feed_forward_length(size)
    writer.add_expert_feed_forward_length(width)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(size // HEADS)
    writer.add_value_length(size // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(WORDS))
    _add_tokenizer(writer)
    head, draw = size // HEADS, np.random.default_rng(0)
    shapes = {
        "token_embd": (len(WORDS), size),
        "output": (len(WORDS), size),
        "blk.0.attn_q": (size, size),
        "blk.0.attn_k": (head, size),
        "blk.0.attn_v": (head, size),
        "blk.0.attn_output": (size, size),
        "blk.0.ffn_gate_inp": (experts, size),
        "blk.0.ffn_gate_exps": (experts, width, size),
        "blk.0.ffn_up_exps": (experts, width, size),
        "blk.0.ffn_down_exps": (experts, size, width),
    }
    norms = {"output_norm": size, "blk.0.attn_norm": size, "blk.0.ffn_norm": size}
    norms |= {"blk.0.attn_q_norm": head, "blk.0.attn_k_norm": head}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.normal(size=shape).astype(np.float16))
    for name, length in norms.items():
        writer.add_tensor(f"{name}.weight", draw.normal(size=length).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(name: str, tensor: Tensor) -> Tensor:
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None
    if heads is None:
        return tensor
    rows, columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(WORDS)
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_token_types([control if word.startswith("<") else normal for word in WORDS])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(WORDS.index("<s>"))
    writer.add_eos_token_id(WORDS.index("</s>"))
    writer.add_unk_token_id(WORDS.index("<unk>"))
    writer.add_pad_token_id(WORDS.index("<pad>"))
