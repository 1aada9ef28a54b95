"""Recipes with slices in a live model: what is scored is what transformers loads from the exported folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from evomerge.errors import CandidateError
from evomerge.export.folder import export_recipe
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import FilteredValue, ModelRef, Recipe, Slice, Source, recipe_of_models
from tests.families import shift

SIZES: dict[str, Any] = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "gemma3_text": {"layer_types": MIXED, "sliding_window": 4},
    "gpt_neox": {},
    "gpt2": {"n_embd": 16, "n_layer": 4, "n_head": 2, "n_inner": 24, "n_positions": 64},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "smollm3": {"no_rope_layers": [1, 1, 0, 1], "pad_token_id": 0},
    "cohere2": {"layer_types": MIXED, "sliding_window": 4},
    "phi3": {"pad_token_id": 0},
    "apertus": {},  # its layers have buffers, which are saved
}
PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 32]])
OUTPUTS = ("o_proj", "down_proj")


def save(model_type: str, folder: Path) -> tuple[ModelRef, ModelRef]:
    """A base and one expert of an architecture, with random weights."""
    config = AutoConfig.for_model(model_type, **SIZES | CONFIGURATIONS[model_type])
    refs = []
    for seed, name in enumerate(("base", "expert")):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        shift(model, 0.3, seed=0)
        shift(model, 0.1 * seed, seed=seed)
        model.save_pretrained(folder / name)
        refs.append(ModelRef(str(folder / name)))
    return refs[0], refs[1]


def copies(base: ModelRef, *parts: tuple[ModelRef, int, int, float]) -> Recipe:
    slices = []
    for model, first, last, scale in parts:
        rules = (*(FilteredValue(text, scale) for text in OUTPUTS), FilteredValue(None, 1.0))
        settings = {} if scale == 1.0 else {"scale": rules}
        slices.append(Slice((Source(model, settings, (first, last)),)))
    return Recipe("passthrough", base, tuple(slices), out_dtype="float32")


def orders(base: ModelRef, expert: ModelRef) -> list[Recipe]:
    """Longer, shorter, repeated and reversed stacks, copied and merged."""
    pair = (Source(base, {}, (0, 3)), Source(expert, {}, (1, 4)))
    return [
        copies(base, (base, 0, 3, 1.0), (expert, 1, 4, 0.8)),
        copies(base, (expert, 2, 4, 1.0), (base, 0, 2, 1.2)),
        copies(base, (base, 0, 1, 1.0), (base, 0, 1, 0.9), (expert, 3, 4, 1.0)),
        Recipe("slerp", base, (Slice(pair), Slice(pair)), {"t": 0.3}, out_dtype="float32"),
        copies(base, (base, 0, 2, 1.0), (expert, 2, 4, 1.0)),
        recipe_of_models("linear", base, (Source(base, {"weight": 0.5}), Source(expert, {"weight": 0.5})), {}),
    ]


def answers(model: PreTrainedModel) -> tuple[torch.Tensor, list[int]]:
    with torch.inference_mode():
        logits = model(PROMPT).logits
        tokens = model.generate(PROMPT, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    return logits, tokens[0].tolist()


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("model_type", CONFIGURATIONS)
def test_the_live_model_is_the_one_that_is_exported(model_type: str, resident: bool, tmp_path: Path) -> None:
    base, expert = save(model_type, tmp_path)
    family = Family(base, [expert])
    materializer = Materializer(family, resident=resident)
    model = load_model(family.base.folder, dtype="float32")
    recipes = orders(base, expert)
    digests = []
    for number, recipe in enumerate([*recipes, recipes[0]]):
        materializer.write(recipe, model)
        folder = tmp_path / f"out{number}"
        digest = export_recipe(recipe, family, folder)
        places = materializer.live_tensors(model).items()
        digests.append(fingerprint((name, place.tensor()) for name, place in places))
        assert digests[-1] == digest
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        (logits, tokens), (theirs, wanted) = answers(model), answers(loaded)
        assert torch.allclose(logits, theirs, rtol=1e-5, atol=1e-5) and tokens == wanted
        assert same_layers(model.config, loaded.config)
    assert digests[0] == digests[-1] and len(set(digests)) == len(recipes)


def same_layers(ours: PretrainedConfig, theirs: PretrainedConfig) -> bool:
    keys = ("num_hidden_layers", "layer_types", "no_rope_layers")
    return all(getattr(ours, key, None) == getattr(theirs, key, None) for key in keys)


def test_layers_that_know_their_number_are_refused(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "gpt_neo", hidden_size=16, num_layers=4, num_heads=2, attention_types=[[["global"], 4]]
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    base = ModelRef(str(tmp_path))
    live = load_model(tmp_path, dtype="float32")
    with pytest.raises(CandidateError, match=r"^transformer\.h: attn\.layer_id depends on the numbers"):
        Materializer(Family(base, [])).write(copies(base, (base, 0, 4, 1.0), (base, 0, 1, 1.0)), live)
