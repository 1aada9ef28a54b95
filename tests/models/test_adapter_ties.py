"""Adapters on tied parameters: what peft's live model computes, for every way in which peft saves such an adapter."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from evomerge.export.folder import export_recipe
from evomerge.merging.materializer import Materializer
from evomerge.models.adapter_expert import AdapterExpert
from evomerge.models.family import Family
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from tests.models.test_ties import load, logits, save

LLAMA: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {  # options, the paths that become tensors of their own
    "embedding saved": ({"modules_to_save": ["embed_tokens"]}, ("lm_head.weight",)),
    "head saved": ({"modules_to_save": ["lm_head"]}, ("lm_head.weight",)),
    "both saved": ({"modules_to_save": ["embed_tokens", "lm_head"]}, ("lm_head.weight",)),
    "saved and kept tied": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, ()),
    "head saved and kept tied": ({"modules_to_save": ["lm_head"], "ensure_weight_tying": True}, ()),
    "embedding adapted": ({"target_modules": ["embed_tokens"]}, ("lm_head.weight",)),
    "head adapted": ({"target_modules": ["lm_head"]}, ("lm_head.weight",)),
    "both adapted": ({"target_modules": ["embed_tokens", "lm_head"]}, ("lm_head.weight",)),
    "adapted and kept tied": ({"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, ()),
    "kept tied, dora": (
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True, "use_dora": True},
        ("lm_head.weight",),
    ),
    "tokens": ({"trainable_token_indices": [1, 5]}, ()),
    "tokens of the head": ({"trainable_token_indices": {"lm_head": [1, 5]}}, ("lm_head.weight",)),
    "other tokens": ({"trainable_token_indices": {"lm_head": [1], "embed_tokens": [3]}}, ("lm_head.weight",)),
}
SIDES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
T5: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "shared saved": ({"modules_to_save": ["shared"]}, ()),
    "shared adapted": ({"target_modules": ["shared"]}, ()),
    "head saved": ({"modules_to_save": ["lm_head"]}, ("lm_head.weight",)),
    "sides saved": ({"modules_to_save": ["embed_tokens"]}, SIDES),
    "sides adapted": ({"target_modules": ["embed_tokens"]}, SIDES),
    "kept tied": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, ()),
    "tokens": ({"trainable_token_indices": [1, 5]}, ()),
}
CASES = [("llama", name) for name in LLAMA] + [("t5", name) for name in T5] + [("t5-v1.1", name) for name in T5]


def save_adapter(kind: str, base: Path, folder: Path, options: dict[str, Any]) -> None:
    """A random adapter of the attention and of what the options name."""
    attention = ["q_proj"] if kind == "llama" else ["q"]
    task = "CAUSAL_LM" if kind == "llama" else "SEQ_2_SEQ_LM"
    draw = torch.Generator().manual_seed(5)
    with warnings.catch_warnings(), torch.no_grad():  # peft remarks on tied weights
        warnings.simplefilter("ignore")
        targets = [*attention, *options.get("target_modules", [])]
        config = LoraConfig(r=2, lora_alpha=4, task_type=task, **{**options, "target_modules": targets})
        adapted = get_peft_model(load(kind, base), config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
        adapted.save_pretrained(folder)


def peft_logits(kind: str, base: Path, folder: Path) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return logits(PeftModel.from_pretrained(load(kind, base), folder).eval())


def recipe_of(family: Family, weight: float) -> Recipe:
    sources = tuple(Source(ref, {"weight": weight}) for ref in family.experts)
    return recipe_of_models("task_arithmetic", family.ref, sources, {})


def family_of(root: Path) -> Family:
    base = str(root / "base")
    return Family(ModelRef(base), [ModelRef(base, adapter=str(root / "adapter"))])


def merged_as_by_peft(kind: str, root: Path) -> Family:
    """The exported merge with the whole of the adapter is what peft's live model computes."""
    family = family_of(root)
    export_recipe(recipe_of(family, 1.0), family, root / "out")
    want = peft_logits(kind, root / "base", root / "adapter")
    torch.testing.assert_close(logits(load(kind, root / "out")), want, rtol=1e-4, atol=1e-4)
    return family


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_the_merge_is_what_the_live_peft_model_computes(kind: str, case: str, tmp_path: Path) -> None:
    options, untied = (LLAMA if kind == "llama" else T5)[case]
    save(kind, tmp_path / "base", flag=kind != "t5-v1.1", head="absent", seed=0)
    save_adapter(kind, tmp_path / "base", tmp_path / "adapter", options)
    family = merged_as_by_peft(kind, tmp_path)
    assert set(family.base.untied) == set(untied)
    whole, half = (dict(Materializer(family).tensors(recipe_of(family, weight))) for weight in (1.0, 0.5))
    for name, tensor in whole.items():
        torch.testing.assert_close(half[name], (tensor + family.base.tensor(name)) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["head saved", "sides adapted", "tokens"])
def test_a_head_that_the_base_holds_on_its_own_is_not_tied_for_an_adapter(case: str, tmp_path: Path) -> None:
    """As in a Flan-T5."""
    save("t5-v1.1", tmp_path / "base", flag=False, head="own", seed=0)
    save_adapter("t5-v1.1", tmp_path / "base", tmp_path / "adapter", T5[case][0])
    merged_as_by_peft("t5-v1.1", tmp_path)


def test_an_embedding_of_another_base_comes_to_both_sides(tmp_path: Path) -> None:
    """peft saves the embedding under the factors, and loads it into the tensor that both sides share."""
    save("llama", tmp_path / "base", flag=True, head="absent", seed=0)
    save_adapter("llama", tmp_path / "base", tmp_path / "adapter", {"target_modules": ["embed_tokens"]})
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.model.embed_tokens.base_layer.weight"] += 0.5
    save_file(tensors, path)
    merged_as_by_peft("llama", tmp_path)


def test_older_files_that_name_one_side_change_both_where_the_adapter_asks_for_ties(tmp_path: Path) -> None:
    options = LLAMA["saved and kept tied"][0]
    save("llama", tmp_path / "base", flag=True, head="absent", seed=0)
    save_adapter("llama", tmp_path / "base", tmp_path / "adapter", options)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.lm_head.weight"]
    save_file(tensors, path)
    family = family_of(tmp_path)
    assert not family.base.untied
    (expert,) = family.experts.values()
    assert isinstance(expert, AdapterExpert)
    embedding = family.update(next(iter(family.experts)), "model.embed_tokens.weight")
    assert torch.equal(embedding, tensors["base_model.model.model.embed_tokens.weight"])


def test_a_change_that_the_model_never_reads_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save("t5", tmp_path / "base", flag=True, head="absent", seed=0)
    save_adapter("t5", tmp_path / "base", tmp_path / "adapter", T5["shared saved"][0])
    family = family_of(tmp_path)
    assert "the model does not read shared.weight itself, so this change has no effect" in caplog.text
    assert "shared.weight" not in family.touched(next(iter(family.experts)))


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["v_proj"]},
        {"layers_to_transform": [1]},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    ],
)
def test_factors_that_the_configuration_does_not_select_are_passed_over(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """peft goes by the configuration, whatever the file holds."""
    save("llama", tmp_path / "base", flag=True, head="absent", seed=0)
    save_adapter("llama", tmp_path / "base", tmp_path / "adapter", {})
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    merged_as_by_peft("llama", tmp_path)
    assert (
        "ignored, as in peft, because target_modules do not select it: model.layers.0.self_attn.q_proj" in caplog.text
    )


@pytest.mark.parametrize("targets", [["q", "embed_tokens"], ["q", "shared"]])
def test_ties_that_peft_does_not_know_by_name_are_not_restored(targets: list[str], tmp_path: Path) -> None:
    """peft writes another configuration than it was given, and loads what that one selects."""
    options = {"target_modules": targets[1:], "ensure_weight_tying": True}
    save("t5", tmp_path / "base", flag=True, head="absent", seed=0)
    save_adapter("t5", tmp_path / "base", tmp_path / "adapter", options)
    merged_as_by_peft("t5", tmp_path)


def test_an_exported_adapter_keeps_a_tied_pair_tied(tmp_path: Path) -> None:
    from evomerge.export import export_adapter

    save("llama", tmp_path / "base", flag=True, head="absent", seed=0)
    save_adapter("llama", tmp_path / "base", tmp_path / "adapter", LLAMA["adapted and kept tied"][0])
    family = family_of(tmp_path)
    export_adapter(recipe_of(family, 0.7), family, tmp_path / "out")
    export_recipe(recipe_of(family, 0.7), family, tmp_path / "merged")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["ensure_weight_tying"] is True
    want = logits(load("llama", tmp_path / "merged"))
    found = peft_logits("llama", tmp_path / "base", tmp_path / "out")
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
