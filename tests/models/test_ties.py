"""Head and embedding: one tensor or two, by what is stored and what the loaded model computes with, not by a flag."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from evomerge.errors import ExpertError
from evomerge.export.folder import export_recipe
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models

WEIGHTS = (0.6, 0.3)
SIZES = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "initializer_range": 0.3}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
T5_SIZES = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
START = {"decoder_start_token_id": 0}
GATED = {**T5_SIZES, **START, "feed_forward_proj": "gated-gelu"}

BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES, **HEADS)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5_SIZES, **START)),
    "t5-v1.1": lambda: T5ForConditionalGeneration(T5Config(**GATED, tie_word_embeddings=False)),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**GATED, tie_word_embeddings=False)),
    "umt5": lambda: UMT5ForConditionalGeneration(UMT5Config(**GATED, tie_word_embeddings=True)),
}
DECODERS = ("llama", "gemma")


def save(kind: str, folder: Path, *, flag: bool, head: str, seed: int) -> None:
    """A checkpoint whose file has no head, a copy of the embedding as head, or a head of its own."""
    torch.manual_seed(3)
    model = BUILDERS[kind]()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    embedding = tensors["model.embed_tokens.weight" if kind in DECODERS else "shared.weight"]
    own = embedding + torch.randn(embedding.shape, generator=draw)
    tensors |= {"absent": {}, "copy": {"lm_head.weight": embedding.clone()}, "own": {"lm_head.weight": own}}[head]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": flag}))


def load(kind: str, folder: Path) -> PreTrainedModel:
    auto = AutoModelForCausalLM if kind in DECODERS else AutoModelForSeq2SeqLM
    model: PreTrainedModel = auto.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def merged_by_hand(kind: str, root: Path, experts: int) -> PreTrainedModel:
    """The loaded models' tensors added up path by path, no two paths of the result being one."""
    model, states = load(kind, root / "base"), [load(kind, root / f"e{i}").state_dict() for i in range(experts)]
    base = {name: tensor.clone().double() for name, tensor in model.state_dict().items()}
    for path in [path for path, _ in model.named_parameters(remove_duplicate=False)]:
        change = sum(w * (state[path].double() - base[path]) for w, state in zip(WEIGHTS, states, strict=False))
        module, _, name = path.rpartition(".")
        setattr(model.get_submodule(module), name, nn.Parameter((base[path] + change).float()))
    return model


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    ids = torch.arange(2, 26).view(2, 12)
    given: dict[str, Any] = {"labels": ids[:, :5].contiguous()} if model.config.is_encoder_decoder else {}
    found: Tensor = model(input_ids=ids, **given).logits
    return found


def recipe_of(family: Family) -> Recipe:
    sources = tuple(Source(ref, {"weight": w}) for ref, w in zip(family.experts, WEIGHTS, strict=False))
    return recipe_of_models("task_arithmetic", family.ref, sources, {})


def family_of(root: Path, experts: int = 2) -> Family:
    return Family(ModelRef(str(root / "base")), [ModelRef(str(root / f"e{i}")) for i in range(experts)])


def assert_one_merge(kind: str, root: Path, experts: int = 2) -> Family:
    """Live, exported and loaded again: the merge of what transformers loads."""
    family, want = family_of(root, experts), logits(merged_by_hand(kind, root, experts))
    recipe = recipe_of(family)
    live = load_model(root / "base", dtype="float32", untied=family.base.untied)
    Materializer(family).write(recipe, live)
    digest = export_recipe(recipe, family, root / "out")
    again = load_model(root / "out", dtype="float32")
    for model in (live, again):
        model.tie_weights()  # as lm-eval does
    for found in (live, again, load(kind, root / "out")):
        torch.testing.assert_close(logits(found), want, rtol=1e-4, atol=1e-4)
    assert fingerprint((name, place.tensor()) for name, place in family.base.live_tensors(live).items()) == digest
    return family


@pytest.mark.filterwarnings("ignore:.*tie.*")
@pytest.mark.parametrize("flag", [True, False], ids=["flag tied", "flag untied"])
@pytest.mark.parametrize("head", ["absent", "copy", "own"])
@pytest.mark.parametrize("kind", list(BUILDERS))
def test_the_merge_is_that_of_the_loaded_models(kind: str, head: str, flag: bool, tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "e0", "e1")):
        save(kind, tmp_path / name, flag=flag, head=head, seed=seed)
    if head == "absent" and not load(kind, tmp_path / "base").all_tied_weights_keys:
        with pytest.raises(ExpertError, match=r"base: lm_head.weight not in the weight files"):
            family_of(tmp_path)
        return
    assert_one_merge(kind, tmp_path)
    assert set(load_file(tmp_path / "out/model.safetensors")) == set(load_file(tmp_path / "base/model.safetensors"))


@pytest.mark.parametrize("kind", ["llama", "t5", "t5-v1.1"])
@pytest.mark.parametrize("heads", [("absent", "own"), ("copy", "own"), ("own", "absent"), ("own", "copy")])
def test_one_head_of_its_own_makes_the_head_a_tensor_of_the_family(
    kind: str, heads: tuple[str, str], tmp_path: Path
) -> None:
    for seed, (name, head) in enumerate(zip(("base", "e0", "e1"), (*heads, "absent"), strict=True)):
        save(kind, tmp_path / name, flag=True, head=head, seed=seed)
    family = assert_one_merge(kind, tmp_path)
    assert family.base.untied == ("lm_head.weight",)


def test_an_expert_that_says_untied_has_its_own_head_beside_a_tied_base(tmp_path: Path) -> None:
    save("llama", tmp_path / "base", flag=True, head="absent", seed=0)
    save("llama", tmp_path / "e0", flag=False, head="own", seed=1)
    family = assert_one_merge("llama", tmp_path, experts=1)
    assert "lm_head.weight" in family.base.parameter


def test_an_expert_that_says_untied_and_has_no_head_is_refused(tmp_path: Path) -> None:
    """transformers would draw one at random."""
    save("llama", tmp_path / "base", flag=True, head="own", seed=0)
    save("llama", tmp_path / "e0", flag=False, head="absent", seed=1)
    with pytest.raises(ExpertError, match=r"e0 does not fit the base .*: lm_head.weight missing"):
        family_of(tmp_path, experts=1)


def test_a_base_that_says_untied_takes_a_tied_expert(tmp_path: Path) -> None:
    save("llama", tmp_path / "base", flag=False, head="own", seed=0)
    save("llama", tmp_path / "e0", flag=True, head="absent", seed=1)
    assert_one_merge("llama", tmp_path, experts=1)


@pytest.mark.parametrize(("kind", "flag"), [("llama", False), ("gemma", False), ("umt5", True), ("t5-v1.1", False)])
def test_the_exported_flag_tells_other_programs_unless_the_model_computes_by_it(
    kind: str, flag: bool, tmp_path: Path
) -> None:
    """Decoders say untied; an encoder-decoder's flag also decides whether the decoder's output is scaled."""
    said = kind == "umt5" or kind in DECODERS
    for seed, name in enumerate(("base", "e0")):
        save(kind, tmp_path / name, flag=said, head="own", seed=seed)
    assert_one_merge(kind, tmp_path, experts=1)
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is flag


def test_a_file_that_holds_the_head_alone_gives_the_embedding_too(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "e0")):
        save("llama", tmp_path / name, flag=True, head="copy", seed=seed)
        tensors = load_file(tmp_path / name / "model.safetensors")
        del tensors["model.embed_tokens.weight"]
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    family = assert_one_merge("llama", tmp_path, experts=1)
    assert "lm_head.weight" in family.base.parameter and not family.base.untied


def test_t5_with_every_tied_path_stored_keeps_all_names(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "e0", "e1")):
        save("t5", tmp_path / name, flag=True, head="copy", seed=seed)
        tensors = load_file(tmp_path / name / "model.safetensors")
        tensors |= {f"{side}.embed_tokens.weight": tensors["shared.weight"].clone() for side in ("encoder", "decoder")}
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    family = assert_one_merge("t5", tmp_path)
    held = load_file(tmp_path / "out/model.safetensors")
    assert not family.base.untied and set(held) == set(load_file(tmp_path / "base/model.safetensors"))
    assert torch.equal(held["decoder.embed_tokens.weight"], held["shared.weight"])
