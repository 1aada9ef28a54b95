"""Where stored tensors live: names that transformers changes when it loads, joined tensors, other towers."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    BertConfig,
    Gemma3Config,
    GPTNeoXConfig,
    MarianConfig,
    PreTrainedModel,
)

from evomerge.errors import ExpertError
from evomerge.export.folder import export_recipe
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from tests.families import shift

TEXT = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
SIGLIP = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
SIDE = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}


def neox() -> PreTrainedModel:
    sizes = {key: value for key, value in TEXT.items() if key not in ("num_key_value_heads", "head_dim")}
    return AutoModelForCausalLM.from_config(GPTNeoXConfig(**sizes))


def gemma3() -> PreTrainedModel:
    vision = {**SIGLIP, "image_size": 8, "patch_size": 4}
    config = Gemma3Config(text_config=TEXT, vision_config=vision, mm_tokens_per_image=4, image_token_index=44)
    return AutoModelForImageTextToText.from_config(config)


def olmo_hybrid() -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("olmo_hybrid", **TEXT, **LINEAR, pad_token_id=0))


def marian() -> PreTrainedModel:
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in SIDE.items()}
    ends = {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1}
    config = MarianConfig(vocab_size=48, d_model=16, max_position_embeddings=64, **sides, **ends)
    return AutoModelForSeq2SeqLM.from_config(config)


def save(build: Callable[[], PreTrainedModel], folder: Path, seed: int, only: str = "") -> PreTrainedModel:
    """The same random model on every call, with noise of its own in the parameters whose name contains `only`."""
    torch.manual_seed(0)
    model = build()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if only not in name}
    shift(model, 0.1 * seed, seed=seed)
    model.load_state_dict(frozen, strict=False)
    model.save_pretrained(folder)
    return model.eval()


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def family_of(root: Path, *experts: str) -> Family:
    return Family(ModelRef(str(root / "base")), [ModelRef(str(root / name)) for name in experts])


def recipe_of(family: Family, weight: float = 1.0) -> Recipe:
    sources = tuple(Source(ref, {"weight": weight}) for ref in family.experts)
    return recipe_of_models("task_arithmetic", family.ref, sources, {})


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=torch.arange(2, 34).view(2, 16)).logits
    return found


def skip_unless_changed(family: Family, joined: bool = False) -> None:
    """Older versions of transformers keep the names of these files, and join nothing."""
    places = family.base.destination.items()
    if not any(not place.whole if joined else name != place.path for name, place in places):
        pytest.skip("this version of transformers changes nothing when it loads such a checkpoint")


def test_an_expert_under_the_names_of_the_loaded_model_is_the_same_expert(tmp_path: Path) -> None:
    save(neox, tmp_path / "base", 0)
    skip_unless_changed(family_of(tmp_path))
    expert = save(neox, tmp_path / "e0", 1)
    assert "embed_out.weight" in load_file(tmp_path / "e0/model.safetensors")
    edit(tmp_path / "e0", lambda t: {name.replace("embed_out", "lm_head"): tensor for name, tensor in t.items()})
    family = family_of(tmp_path, "e0")
    export_recipe(recipe_of(family), family, tmp_path / "out")
    assert set(load_file(tmp_path / "out/model.safetensors")) == set(load_file(tmp_path / "base/model.safetensors"))
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(found, logits(expert), rtol=1e-4, atol=1e-4)


def test_an_adapter_under_the_names_of_an_older_transformers_is_the_same_adapter(tmp_path: Path) -> None:
    base = save(neox, tmp_path / "base", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["query_key_value", "lm_head"]))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted.save_pretrained(tmp_path / "a")
        want = logits(
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "a")
        )
    path = tmp_path / "a" / "adapter_model.safetensors"
    save_file({name.replace("lm_head", "embed_out"): tensor for name, tensor in load_file(path).items()}, path)
    family = Family(ModelRef(str(tmp_path / "base")), [ModelRef(str(tmp_path / "base"), adapter=str(tmp_path / "a"))])
    model = load_model(tmp_path / "base", dtype="float32")
    Materializer(family).write(recipe_of(family), model)
    torch.testing.assert_close(logits(model), want, rtol=1e-4, atol=1e-4)


def test_tensors_that_are_joined_when_loaded_are_merged_apart_and_written_side_by_side(tmp_path: Path) -> None:
    save(olmo_hybrid, tmp_path / "base", 0)
    skip_unless_changed(family_of(tmp_path), joined=True)
    expert = save(olmo_hybrid, tmp_path / "e0", 1)
    family = family_of(tmp_path, "e0")
    names = [name for name in family.base.destination if "layers.0" in name and "conv1d" in name]
    assert len(names) == 3 and len({family.base.parameter[name] for name in names}) == 1
    model = load_model(tmp_path / "base", dtype="float32")
    Materializer(family).write(recipe_of(family), model)
    for name, parameter in expert.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-5, atol=1e-6)
    export_recipe(recipe_of(family), family, tmp_path / "out")
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(found, logits(expert), rtol=1e-3, atol=1e-3)


def test_an_adapter_that_saves_a_joined_parameter_changes_each_of_its_stored_parts(tmp_path: Path) -> None:
    base = save(olmo_hybrid, tmp_path / "base", 0)
    skip_unless_changed(family_of(tmp_path), joined=True)
    path = next(name for name, _ in base.named_parameters() if "conv1d" in name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
        adapted.save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    saved = torch.randn(base.get_parameter(path).shape)
    save_file({**load_file(file), f"base_model.model.{path}": saved}, file)
    family = Family(ModelRef(str(tmp_path / "base")), [ModelRef(str(tmp_path / "base"), adapter=str(tmp_path / "a"))])
    model = load_model(tmp_path / "base", dtype="float32")
    Materializer(family).write(recipe_of(family), model)
    torch.testing.assert_close(model.get_parameter(path), saved)


def test_positions_that_the_architecture_makes_need_not_be_stored(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "e0")):
        save(marian, tmp_path / name, seed)
    assert not any("embed_positions" in name for name in load_file(tmp_path / "base/model.safetensors"))
    positions = load_model(tmp_path / "base", dtype="float32").get_parameter("model.encoder.embed_positions.weight")
    edit(tmp_path / "e0", lambda t: {**t, "model.encoder.embed_positions.weight": positions.detach().clone()})
    family = family_of(tmp_path, "e0")
    assert not any("embed_positions" in name for name in family.base.parameter)
    model = load_model(tmp_path / "base", dtype="float32")
    Materializer(family).write(recipe_of(family, 0.5), model)
    assert torch.equal(model.get_parameter("model.encoder.embed_positions.weight"), positions)


def test_a_vision_tower_stays_the_bases_to_the_bit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(gemma3, tmp_path / "base", 1)
    save(gemma3, tmp_path / "e0", 2)
    family = family_of(tmp_path, "e0")
    export_recipe(recipe_of(family, 0.5), family, tmp_path / "out")
    base, out = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "out"))
    assert list(sorted(base)) == sorted(out)
    for name in base:
        assert torch.equal(base[name], out[name]) == ("language_model" not in name)
    assert "multi_modal_projector.mm_input" in caplog.text and "outside the language model" in caplog.text


def test_a_tower_that_no_expert_has_changed_is_nothing_to_speak_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(gemma3, tmp_path / "base", 0)
    save(gemma3, tmp_path / "e0", 2, only="language_model")
    export_recipe(recipe_of(family := family_of(tmp_path, "e0")), family, tmp_path / "out")
    assert not caplog.messages


def test_an_adapter_of_both_towers_merges_the_language_models_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = save(gemma3, tmp_path / "base", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    family = Family(ModelRef(str(tmp_path / "base")), [ModelRef(str(tmp_path / "base"), adapter=str(tmp_path / "a"))])
    assert all("language_model" in name for name in family.touched(next(iter(family.experts))))
    assert "vision_tower" in caplog.text and "outside the language model, so this change is ignored" in caplog.text


def test_a_model_that_generates_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    BertConfig(num_hidden_layers=1, is_encoder_decoder=True).save_pretrained(tmp_path / "base")
    with pytest.raises(ExpertError, match=r"base: architecture bert: transformers loads it neither as a language"):
        family_of(tmp_path)


def test_an_adapter_of_the_language_model_alone_fits_a_base_with_other_senses(tmp_path: Path) -> None:
    """Trained on the text model, its names lack the place where that model stands."""
    base = save(gemma3, tmp_path / "base", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        targets = [name for name, _ in base.named_modules() if name.endswith("q_proj") and "language_model" in name]
        get_peft_model(base, LoraConfig(r=2, target_modules=targets)).save_pretrained(tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    renamed = {name.replace("model.language_model.", "model."): tensor for name, tensor in load_file(path).items()}
    save_file(renamed, path)
    family = Family(ModelRef(str(tmp_path / "base")), [ModelRef(str(tmp_path / "base"), adapter=str(tmp_path / "a"))])
    touched = family.touched(next(iter(family.experts)))
    assert len(touched) == TEXT["num_hidden_layers"] and all("q_proj" in name for name in touched)
