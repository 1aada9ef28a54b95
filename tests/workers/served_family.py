"""A family of random weights that vLLM can serve on a CPU, its merges, and requests to it."""

import random
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from evomerge.scoring.protocol import Request
from tests.conftest import QUICKSTART

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_family(folder: Path) -> tuple[ModelRef, tuple[ModelRef, ...]]:
    """A base and two experts of random weights, with heads of a width that vLLM's attention supports on a CPU."""
    source = QUICKSTART / "family" / "base"
    config = AutoConfig.from_pretrained(source)
    config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim = 64, 2, 1, 32
    config.intermediate_size, config.num_hidden_layers, config.max_position_embeddings = 96, 2, 128
    for number, name in enumerate(("base", "one", "two")):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config).float()
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(folder / name)
        for path in source.glob("*token*"):
            shutil.copy(path, folder / name)
    base, *experts = (ModelRef(str(folder / name)) for name in ("base", "one", "two"))
    return base, tuple(experts)


def requests(count: int, **options: Any) -> tuple[Request, ...]:
    draw = random.Random(3)
    texts = ["".join(draw.choices(LETTERS + " =", k=draw.randint(2, 40))) for _ in range(count)]
    return tuple(Request("generate_until", (text, {"until": ["\n"], "max_gen_toks": 24, **options})) for text in texts)


def merged(family: tuple[ModelRef, tuple[ModelRef, ...]], *weights: float) -> Recipe:
    base, experts = family
    sources = tuple(Source(ref, {"weight": weight}) for ref, weight in zip(experts, weights, strict=True))
    return recipe_of_models("task_arithmetic", base, sources, {}, out_dtype="float32")
