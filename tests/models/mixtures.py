"""Tiny mixtures of experts for tests, as files and loaded."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import ModelRef, Source, recipe_of_models
from tests.families import shift

SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
DEEPSEEK = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "qk_rope_head_dim": 8}
FILE = "model.safetensors"


def mixture(kind: str, folder: Path, seed: int = 0, together: bool = False, **sizes: Any) -> PreTrainedModel:
    """The same random model with noise of its own for each seed; `together` keeps the stacks in the file."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **sizes}))
    shift(model, 0.1 * (seed + 1), seed=seed)
    model.save_pretrained(folder)
    if together:
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, folder / FILE, metadata={"format": "pt"})
    return model.eval()


def edit(folder: Path, **changes: Tensor | None) -> None:
    """Replace tensors of a checkpoint by name, or remove those that are None."""
    tensors: dict[str, Tensor | None] = {**load_file(folder / FILE), **changes}
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / FILE, metadata={"format": "pt"})


def family_of(root: Path, *experts: str, adapter: str | None = None) -> Family:
    base = str(root / "base")
    refs = [ModelRef(str(root / name)) for name in experts]
    return Family(ModelRef(base), [*refs, *([ModelRef(base, adapter=str(root / adapter))] if adapter else [])])


def merged(family: Family, weight: float = 1.0, method: str = "task_arithmetic", **settings: Any) -> PreTrainedModel:
    """The live model of a merge of all experts with one weight."""
    sources = tuple(Source(ref, {"weight": weight, **settings}) for ref in family.experts)
    recipe = recipe_of_models(method, family.ref, sources, {}, out_dtype="float32")
    model = load_model(family.base.folder, dtype="float32", untied=family.base.untied)
    Materializer(family, compiled=False).write(recipe, model)
    return model
