"""Random LoRA adapters of several shapes, saved by peft."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

Shape = dict[str, Any]
SHAPES: dict[str, Shape] = {
    "plain": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "rslora": {"r": 4, "lora_alpha": 4, "use_rslora": True, "target_modules": ["down_proj", "o_proj"]},
    "patterned": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "gate_proj"],
        "rank_pattern": {"gate_proj": 5},
        "alpha_pattern": {"q_proj": 9},
    },
}
RARE: dict[str, Shape] = {
    "dora": {"r": 2, "lora_alpha": 4, "use_dora": True, "target_modules": ["q_proj", "up_proj"]},
    "embedding": {"r": 2, "lora_alpha": 4, "target_modules": ["embed_tokens", "k_proj"]},
    "saved": {"r": 2, "lora_alpha": 4, "target_modules": ["o_proj"], "modules_to_save": ["lm_head"]},
}
# GPT-2 stores its weights transposed.
CONV1D: Shape = {"r": 2, "lora_alpha": 4, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}


def save_adapter(base: str, folder: Path, shape: Shape) -> str:
    """Saves a random adapter, whose delta is not zero as a fresh one's would be; returns `base+adapter`."""
    torch.manual_seed(len(str(shape)))
    with warnings.catch_warnings():
        # peft announces what it saves, and reads an attribute that transformers is about to rename.
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        adapted = get_peft_model(model, LoraConfig(init_lora_weights=False, **shape))
        train(adapted)
        adapted.save_pretrained(str(folder))
    return f"{base}+{folder}"


@torch.no_grad()
def train(model: torch.nn.Module) -> None:
    """Moves everything that training would move: magnitudes and saved modules start as the base's."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn_like(parameter))
