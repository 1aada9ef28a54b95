"""Checkpoints of real sizes in sparse files: readable headers before bytes that no disk holds."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHARD = 2_000_000_000
MIXTRAL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "dtype": "bfloat16",
}
Shape = tuple[int, ...]


def mixtral_shapes(layers: int = 32, experts: int = 8) -> dict[str, Shape]:
    """The tensors of a Mixtral 8 × 7B."""
    width, inner, key = 4096, 14336, 1024
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (32000, width)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        projections = {"q_proj": width, "k_proj": key, "v_proj": key, "o_proj": width}
        shapes |= {f"{prefix}.self_attn.{name}.weight": (rows, width) for name, rows in projections.items()}
        shapes |= {f"{prefix}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
        shapes[f"{prefix}.block_sparse_moe.gate.weight"] = (experts, width)
        for expert in range(experts):
            matrices = {"w1": (inner, width), "w2": (width, inner), "w3": (inner, width)}
            name = f"{prefix}.block_sparse_moe.experts.{expert}"
            shapes |= {f"{name}.{matrix}.weight": shape for matrix, shape in matrices.items()}
    return {**shapes, "model.norm.weight": (width,), "lm_head.weight": (32000, width)}


LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def llama_8b_shapes() -> dict[str, Shape]:
    """The tensors of a Llama 3 of 8B."""
    width, inner, key = 4096, 14336, 1024
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (128256, width)}
    for layer in range(32):
        prefix = f"model.layers.{layer}"
        projections = {"q_proj": width, "k_proj": key, "v_proj": key, "o_proj": width}
        shapes |= {f"{prefix}.self_attn.{name}.weight": (rows, width) for name, rows in projections.items()}
        shapes |= {f"{prefix}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
        matrices = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
        shapes |= {f"{prefix}.mlp.{name}.weight": shape for name, shape in matrices.items()}
    return {**shapes, "model.norm.weight": (width,), "lm_head.weight": (128256, width)}


def write_sparse_adapter(folder: Path, base: Path, shapes: Mapping[str, Shape], rank: int) -> int:
    """Write a LoRA adapter in bf16 of every projection, without data; returns its bytes."""
    folder.mkdir()
    entries: dict[str, Any] = {}
    end = 0
    adapted = [name.removesuffix(".weight") for name in shapes if name.endswith("_proj.weight")]
    for module in adapted:
        rows, columns = shapes[f"{module}.weight"]
        for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            name, size = f"base_model.model.{module}.lora_{side}.weight", 2 * math.prod(shape)
            entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
    header = json.dumps(entries).encode()
    with (folder / "adapter_model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + end)
    targets = sorted({module.rpartition(".")[2] for module in adapted})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 16, "target_modules": targets}))
    return end


def write_sparse(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> int:
    """Write bf16 shards without data; returns their bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, Any]] = [{}]
    end = total = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        if end + size > SHARD:
            shards.append({})
            end = 0
        shards[-1][name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end, total = end + size, total + size
    where = {}
    for number, entries in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header = json.dumps(entries).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header)
            stream.truncate(8 + len(header) + max(entry["data_offsets"][1] for entry in entries.values()))
        where |= dict.fromkeys(entries, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return total
