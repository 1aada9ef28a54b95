"""Merges of models with other vocabularies: rows by token, the exported folder, the live model, refusals."""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from evomerge.errors import ConfigError, EvomergeError, ExpertError
from evomerge.export import merge_adapter, merge_recipe, open_recipe
from evomerge.merging import Materializer
from evomerge.models import Family, load_tokenizer, recipe_vocabulary
from evomerge.recipes import dump_recipe, load_recipe, parse_recipe, request_of
from tests.vocabularies import MERGES, PLAIN, Model, row_of, write, write_tokenizer

CHAT = Model(added=("<|im_start|>", "<|im_end|>"), seed=1)
TOOL = Model(added=("<tool>", "<|im_end|>"), seed=2, padding=3, tokens=PLAIN[::-1])
HEADS = ("model.embed_tokens.weight", "lm_head.weight")
TEXT = "abcd <|im_start|> dead <tool> cab h <|im_end|> efab"
Merge = Callable[..., Path]


def document(folder: Path, keys: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, Any]:
    models = [{"model": str(folder / name), "parameters": {"weight": weight}} for name, weight in weights.items()]
    given = json.loads(json.dumps(keys).replace("{folder}", str(folder)))
    head = {"merge_method": "task_arithmetic", "base_model": str(folder / "base"), "out_dtype": "float32"}
    return {**head, "models": models, **given}


def merge(folder: Path, made: Mapping[str, Model], keys: Mapping[str, Any], **weights: float) -> Path:
    """Write the models that are not there, and the merge of the experts with these weights (0.5 unless given)."""
    for name, model in made.items():
        if not (folder / name).exists():
            write(folder / name, model)
    experts = {name: weights.get(name, 0.5) for name in made if name != "base"}
    recipe = folder / f"recipe{len(list(folder.glob('recipe*')))}.yaml"
    recipe.write_text(yaml.safe_dump(document(folder, keys, experts)))
    out = recipe.with_suffix("")
    merge_recipe(recipe, out)
    return out


def rows_by_token(out: Path, name: str) -> dict[str, Tensor]:
    table = load_file(out / "model.safetensors")[name]
    return {token: table[row] for token, row in AutoTokenizer.from_pretrained(out).get_vocab().items()}


def expected(token: str, name: str, made: Mapping[str, Model], weight: float = 0.5) -> Tensor:
    """The rule by hand: own rows; else the only one's, the base's, or the mean of those with the token."""
    known = {label: row_of(token, name, m.seed) for label, m in made.items() if token in (*m.tokens, *m.added)}
    lacking = known.get("base", torch.stack(list(known.values())).mean(dim=0))
    rows = {label: known.get(label, lacking) for label in made}
    return rows["base"] + sum(weight * (rows[label] - rows["base"]) for label in made if label != "base")


@pytest.mark.parametrize("tied", [False, True], ids=["head", "tied"])
@pytest.mark.parametrize("source", ["base", "union", "{folder}/tool"])
def test_rows_are_matched_by_token(source: str, tied: bool, tmp_path: Path) -> None:
    made = {name: replace(m, tied=tied) for name, m in {"base": Model(), "chat": CHAT, "tool": TOOL}.items()}
    out = merge(tmp_path, made, {"tokenizer": {"source": source}})
    tokens = {"base": {*PLAIN}, "union": {*PLAIN, *CHAT.added, *TOOL.added}}.get(source, {*PLAIN, *TOOL.added})
    for name in HEADS[: 2 - tied]:
        found = rows_by_token(out, name)
        assert found.keys() == tokens
        for token, row in found.items():
            torch.testing.assert_close(row, expected(token, name, made), atol=1e-6, rtol=1e-5)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(tokens)


def test_the_order_of_an_experts_rows_does_not_matter(tmp_path: Path) -> None:
    made = {"base": Model(), "one": Model(seed=1)}
    aligned = merge(tmp_path, made, {"tokenizer": {"source": "base"}})
    write(tmp_path / "other", Model(seed=1, tokens=PLAIN[::-1]))
    moved = merge(tmp_path, {"base": Model(), "other": Model(seed=1)}, {"tokenizer": {"source": "base"}})
    assert (aligned / "model.safetensors").read_bytes() == (moved / "model.safetensors").read_bytes()
    assert load_recipe(aligned / "recipe.yaml").vocabulary == {}


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_exported_folder_computes_what_the_live_model_does(kind: str, tmp_path: Path) -> None:
    made = {name: replace(m, kind=kind) for name, m in {"base": Model(), "chat": CHAT, "tool": TOOL}.items()}
    keys = {"tokenizer": {"source": "union", "pad_to_multiple_of": 8}}
    out = merge(tmp_path, made, keys)
    recipe, family = open_recipe(next(tmp_path.glob("*.yaml")))
    live, tokenizer = family.load_model(dtype="float32"), family.load_tokenizer()
    Materializer(family).write(recipe, live)
    loader = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    loaded = loader.from_pretrained(out, dtype=torch.float32).eval()
    saved = AutoTokenizer.from_pretrained(out)
    ids = saved(TEXT, return_tensors="pt").input_ids
    assert torch.equal(ids, tokenizer(TEXT, return_tensors="pt").input_ids)
    more = {"decoder_input_ids": ids[:, :3]} if kind == "t5" else {}
    with torch.inference_mode():
        assert torch.equal(live(ids, **more).logits, loaded(ids, **more).logits)
    assert live.config.get_text_config().vocab_size == loaded.config.vocab_size == 24
    assert live.config.eos_token_id == loaded.config.eos_token_id == saved.eos_token_id
    own = AutoTokenizer.from_pretrained(tmp_path / "chat")
    chat = TEXT.replace("<tool> ", "")
    assert saved.convert_ids_to_tokens(saved(chat).input_ids) == own.convert_ids_to_tokens(own(chat).input_ids)


def test_a_models_own_tokenizer_brings_its_ids_of_special_tokens(tmp_path: Path) -> None:
    made = {"base": Model(), "tool": TOOL}
    out = merge(tmp_path, made, {"tokenizer": {"source": "{folder}/tool"}})
    own = AutoTokenizer.from_pretrained(tmp_path / "tool")
    assert AutoTokenizer.from_pretrained(out).get_vocab() == own.get_vocab()
    eos = [json.loads((out / name).read_text())["eos_token_id"] for name in ("config.json", "generation_config.json")]
    assert eos == [own.eos_token_id] * 2 and own.eos_token_id != PLAIN.index("</s>")
    _, family = open_recipe(next(tmp_path.glob("*.yaml")))
    live = family.load_model(dtype="float32")
    assert live.config.eos_token_id == live.generation_config.eos_token_id == own.eos_token_id


def test_a_tokenizer_with_code_of_its_own_is_trusted_as_the_base_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(tmp_path, {"base": Model(), "tool": TOOL}, {"tokenizer": {"source": "union"}})
    recipe, _ = open_recipe(next(tmp_path.glob("*.yaml")))
    family = Family(recipe.base, recipe.models(), trust_remote_code=True, request=request_of(recipe))
    trusted = []

    def load(folder: Path, trust: bool = False) -> PreTrainedTokenizerBase:
        trusted.append(trust)
        return load_tokenizer(folder, trust)

    monkeypatch.setattr("evomerge.models.recipe_vocabulary.load_tokenizer", load)
    (tmp_path / "new").mkdir()
    recipe_vocabulary.write_tokenizer(recipe, family, tmp_path / "new")
    assert trusted == [True]


RULES = {
    "piece": {"source": {"kind": "pieces"}},
    "zero": {"source": {"kind": "zero"}},
    "of a model": {"source": "{folder}/chat"},
    "another token": {"source": {"kind": "model_token", "model": "{folder}/tool", "token": "abc"}},
    "a row": {"source": {"kind": "model_token", "model": "{folder}/tool", "token_id": 2}},
}


@pytest.mark.parametrize(
    ("rule", "force"), [(rule, force) for rule in RULES for force in (False, True) if not (force and rule == "piece")]
)
def test_a_token_can_have_a_rule_of_its_own(rule: str, force: bool, tmp_path: Path) -> None:
    made = {"base": Model(), "chat": replace(CHAT, added=("ac", "<|im_end|>")), "tool": TOOL}
    keys = {"tokenizer": {"source": "union", "tokens": {"ac": {**RULES[rule], "force": force}}}}
    found = rows_by_token(merge(tmp_path, made, keys), HEADS[0])["ac"]

    def lacking(seed: int) -> Tensor:
        piece = (row_of("a", HEADS[0], seed) + row_of("c", HEADS[0], seed)) / 2
        others = {"zero": torch.zeros_like(piece), "of a model": row_of("ac", HEADS[0], 1), "piece": piece}
        tokens = {"another token": "abc", "a row": TOOL.tokens[2]}
        return others[rule] if rule in others else row_of(tokens[rule], HEADS[0], 2)

    rows = {name: lacking(m.seed) for name, m in made.items()}
    if not force:
        rows["chat"] = row_of("ac", HEADS[0], 1)
    result = rows["base"] + 0.5 * (rows["chat"] - rows["base"]) + 0.5 * (rows["tool"] - rows["base"])
    torch.testing.assert_close(found, result, atol=1e-6, rtol=1e-5)


def test_missing_rows_can_be_the_mean_of_pieces(tmp_path: Path) -> None:
    made = {"base": Model(), "chat": replace(CHAT, added=("ac", "dh"))}
    keys = {"tokenizer": {"source": "union"}, "evomerge": {"vocabulary": {"missing": "pieces"}}}
    out = merge(tmp_path, made, keys)
    for token in ("ac", "dh"):
        base = (row_of(token[0], HEADS[1], 0) + row_of(token[1], HEADS[1], 0)) / 2
        result = base + 0.5 * (row_of(token, HEADS[1], 1) - base)
        torch.testing.assert_close(rows_by_token(out, HEADS[1])[token], result, atol=1e-6, rtol=1e-5)
    again = load_recipe(out / "recipe.yaml")
    assert again.vocabulary["missing"] == "pieces" and parse_recipe(yaml.safe_load(dump_recipe(again))) == again


def test_padding_rows_are_the_mean_of_the_others(tmp_path: Path) -> None:
    out = merge(tmp_path, {"base": Model(), "chat": CHAT}, {"tokenizer": {"source": "base", "pad_to_multiple_of": 5}})
    table = load_file(out / "model.safetensors")[HEADS[0]]
    assert len(table) == 20
    torch.testing.assert_close(table[16:], table[:16].mean(dim=0).expand(4, -1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("padding", [0, 3])
def test_without_a_request_an_expert_is_read_as_far_as_the_bases_rows_go(
    padding: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = {"base": Model(padding=padding), "chat": CHAT}  # 16 or 19 rows against 18
    with caplog.at_level(logging.WARNING):
        out = merge(tmp_path, made, {})
    table = load_file(out / "model.safetensors")[HEADS[1]]
    names = [*PLAIN, *(f"padding {i}" for i in range(padding))]
    rows = [*PLAIN, *CHAT.added][: len(names)]
    for place, name in enumerate(names):
        base = row_of(name, HEADS[1], 0)
        own = row_of(rows[place], HEADS[1], 1) if place < len(rows) else base
        torch.testing.assert_close(table[place], base + 0.5 * (own - base), atol=1e-6, rtol=1e-5)
    note = (
        "the last 1 are the base's" if padding else "the others are left out, among them '<|im_start|>', '<|im_end|>'"
    )
    assert note in caplog.text
    assert AutoTokenizer.from_pretrained(out).get_vocab().keys() == {*PLAIN}


def lora(base: Path, folder: Path, modules: list[str]) -> tuple[Path, PreTrainedModel]:
    """A random adapter of a folder's model, and peft's own merge of it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    live = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():  # peft asks transformers by a name that is on its way out
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(live, LoraConfig(r=2, target_modules=modules, init_lora_weights=False))
    adapted.save_pretrained(folder, save_embedding_layers="embed_tokens" in modules)
    return folder, adapted.merge_and_unload()


def test_adapters_take_part_with_their_bases_tokenizer(tmp_path: Path) -> None:
    for name, model in {"base": Model(), "chat": CHAT}.items():
        write(tmp_path / name, model)
    for name, modules in {"plain": ["q_proj"], "embedding": ["embed_tokens", "lm_head", "q_proj"]}.items():
        adapter, merged = lora(tmp_path / "base", tmp_path / f"{name}-adapter", modules)
        merged.save_pretrained(tmp_path / name)
        write_tokenizer(tmp_path / name, Model())
        keys = {"tokenizer": {"source": "union"}}
        both: list[dict[str, Tensor]] = []
        for ref in (str(tmp_path / name), f"{tmp_path / 'base'}+{adapter}"):
            recipe = tmp_path / f"{name}{len(both)}.yaml"
            recipe.write_text(yaml.safe_dump(document(tmp_path, keys, {"chat": 0.5, ref: 0.25})))
            merge_recipe(recipe, recipe.with_suffix(""))
            both.append(load_file(recipe.with_suffix("") / "model.safetensors"))
        for tensor in both[0]:
            torch.testing.assert_close(both[0][tensor], both[1][tensor], atol=2e-6, rtol=1e-5)
        with pytest.raises(ConfigError, match="tokenizer: the merge has other rows than .*merge without --adapter"):
            merge_adapter(tmp_path / f"{name}1.yaml", tmp_path / "adapter")


def test_an_adapter_of_an_expert_that_added_tokens(tmp_path: Path) -> None:
    for name, model in {"base": Model(), "chat": CHAT}.items():
        write(tmp_path / name, model)
    adapter, merged = lora(tmp_path / "chat", tmp_path / "adapter", ["embed_tokens", "q_proj"])
    merged.save_pretrained(tmp_path / "merged")
    write_tokenizer(tmp_path / "merged", CHAT)
    both = []
    for ref in (str(tmp_path / "merged"), f"{tmp_path / 'chat'}+{adapter}"):
        (tmp_path / "r.yaml").write_text(
            yaml.safe_dump(document(tmp_path, {"tokenizer": {"source": "union"}}, {ref: 0.5}))
        )
        merge_recipe(tmp_path / "r.yaml", tmp_path / f"out{len(both)}")
        both.append(load_file(tmp_path / f"out{len(both)}" / "model.safetensors"))
    assert len(both[0][HEADS[0]]) == CHAT.rows
    for tensor in both[0]:
        torch.testing.assert_close(both[0][tensor], both[1][tensor], atol=2e-6, rtol=1e-5)


def test_an_expert_that_untied_its_head_unties_the_merge(tmp_path: Path) -> None:
    made = {"base": Model(tied=True), "chat": CHAT}
    out = merge(tmp_path, made, {"tokenizer": {"source": "union"}})
    _, family = open_recipe(next(tmp_path.glob("*.yaml")))
    live = family.load_model(dtype="float32")
    assert live.lm_head.weight.shape == (CHAT.rows, 12) and live.lm_head.weight is not live.model.embed_tokens.weight
    head, embedding = (rows_by_token(out, name)["ab"] for name in HEADS[::-1])
    base = row_of("ab", HEADS[0], 0)  # tied: the base's head is its embedding
    for found, name in ((head, HEADS[1]), (embedding, HEADS[0])):
        torch.testing.assert_close(found, base + 0.5 * (row_of("ab", name, 1) - base), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("made", "keys", "message"),
    [
        (
            {"chat": CHAT},
            {"tokens": {"<no>": {}}},
            "tokenizer: tokens: <no>: no model has this token; give it a source",
        ),
        (
            {"chat": CHAT},
            {"tokens": {"ab": {"source": "{folder}/else", "force": True}}},
            "ab: .*else is no model of the",
        ),
        (
            {"chat": CHAT},
            {"tokens": {"<x>": {"source": {"kind": "model_token", "model": "{folder}/chat", "token_id": 18}}}},
            "<x>: token_id 18: the rows of .*chat are 0 to 17",
        ),
        (
            {"chat": CHAT},
            {"tokens": {"<x>": {"source": {"kind": "model_token", "model": "{folder}/chat", "token": "<y>"}}}},
            "<x>: .*chat has no token '<y>'; give one that it has",
        ),
        (
            {"chat": replace(CHAT, has_tokenizer=False)},
            {},
            "chat: no tokenizer, and 18 rows .the base has 16.; add its",
        ),
        ({"chat": CHAT}, {"source": "{folder}/nowhere"}, "nowhere: no such folder"),
        (
            {"chat": CHAT},
            {"tokens": {"<|im_end|>": {"source": {"kind": "pieces"}, "force": True}}},
            "<.im_end.>: .*chat does not split it into other tokens",
        ),
        (
            {"chat": replace(CHAT, merges=(*MERGES[:-1], ("a", "c")), tokens=(*PLAIN[:-1], "ac"))},
            {},
            r"tokenizer: .*chat splits text in another way than .*base: it merges 'a c', the base does not; only",
        ),
    ],
    ids=["unknown token", "other model", "row", "token", "no tokenizer", "no source", "pieces", "merges"],
)
def test_refusals_name_the_token_or_the_model_in_one_line(
    made: dict[str, Model], keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(EvomergeError, match=message) as error:
        merge(tmp_path, {"base": Model(), **made}, {"tokenizer": {"source": "union", **keys}})
    assert "\n" not in str(error.value)


def test_equal_merges_in_another_order_are_one_way_of_splitting(tmp_path: Path) -> None:
    merge(tmp_path, {"base": Model(), "chat": replace(CHAT, merges=MERGES[::-1])}, {"tokenizer": {"source": "union"}})


def test_a_token_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    made = {"base": Model(), "chat": CHAT}
    for name, model in made.items():
        write(tmp_path / name, model)
    write_tokenizer(tmp_path / "chat", replace(CHAT, added=(*CHAT.added, "<pad>")))
    with pytest.raises(
        ExpertError, match=r"chat: its tokenizer has '<pad>' as row 18, its embedding has 18 rows; resize"
    ):
        merge(tmp_path, made, {"tokenizer": {"source": "union"}})


def test_rows_of_other_tokens_are_refused_without_a_request(tmp_path: Path) -> None:
    made = {"base": Model(), "tool": TOOL}
    with pytest.raises(ExpertError, match=r"21 rows .base 16., and row 0 is 'ad' .base '<unk>'.; align .*source: base"):
        merge(tmp_path, made, {})


@pytest.mark.parametrize("padding", [0, 3])
def test_fewer_rows_without_a_tokenizer_are_padding_or_refused(padding: int, tmp_path: Path) -> None:
    """19 rows of the base, of which 16 are tokens; an expert with 13 rows lacks some of them, one with 16 does not."""
    tokens = (*PLAIN[:10], *(() if padding == 0 else PLAIN[10:]))
    few = Model(tokens=tokens, merges=() if padding == 0 else MERGES, has_tokenizer=False, seed=1, padding=0)
    made = {"base": Model(padding=3), "few": few}
    if padding:
        merge(tmp_path, made, {})
        return
    with pytest.raises(
        ExpertError, match=r"few does not fit the base .*: 10 rows .base 19., and no tokenizer that nam"
    ):
        merge(tmp_path, made, {})


def test_a_head_of_other_rows_than_the_embedding_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name, model in {"base": Model(), "chat": CHAT}.items():
        write(tmp_path / name, model)
    file = tmp_path / "chat" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {HEADS[1]: tensors[HEADS[1]][:-1].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(ExpertError, match=r"chat: lm_head.weight has 17 rows and model.embed_tokens.weight 18; resize"):
        merge(tmp_path, {"base": Model(), "chat": CHAT}, {"tokenizer": {"source": "union"}})


def test_the_key_tells_vocabularies_apart_once_the_models_are_open(tmp_path: Path) -> None:
    for name, model in {"base": Model(), "chat": CHAT}.items():
        write(tmp_path / name, model)
    plain = parse_recipe(document(tmp_path, {}, {"chat": 0.5}))
    found = [plain.key()]
    for keys in ({"source": "base"}, {"source": "union"}, {"source": "union", "pad_to_multiple_of": 8}):
        parsed = parse_recipe(document(tmp_path, {"tokenizer": keys}, {"chat": 0.5}))
        assert parsed == plain and parsed.key() == plain.key()  # a document alone does not tell whether rows change
        opened, _ = open_recipe(parsed)
        again = parse_recipe(yaml.safe_load(dump_recipe(opened)))
        assert again == opened != plain and again.key() == opened.key()
        found.append(opened.key())
    assert len(set(found)) == 4


def test_a_live_model_is_written_again_with_the_same_bits(tmp_path: Path) -> None:
    out = merge(tmp_path, {"base": Model(), "chat": CHAT, "tool": TOOL}, {"tokenizer": {"source": "union"}})
    recipe, family = open_recipe(next(tmp_path.glob("*.yaml")))
    other, _ = open_recipe(parse_recipe(document(tmp_path, recipe.tokenizer, {"chat": 0.1, "tool": 0.9})))
    live, materializer = family.load_model(dtype="float32"), Materializer(family)
    for one in (recipe, other, recipe):
        materializer.write(one, live)
    merged = load_file(out / "model.safetensors")
    assert all(torch.equal(parameter, merged[name]) for name, parameter in live.named_parameters())
    assert [name for name, _ in materializer.tensors(recipe)] == list(family.base.destination)


def test_tables_are_kept_up_to_a_number_of_bytes_and_else_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(tmp_path, {"base": Model(), "chat": CHAT, "tool": TOOL}, {"tokenizer": {"source": "union"}})
    recipe, family = open_recipe(next(tmp_path.glob("*.yaml")))
    unbounded, bounded = Materializer(family), Materializer(family)
    right = dict(unbounded.tensors(recipe))
    limit = 3 * family.base.tensor(HEADS[0]).nbytes
    monkeypatch.setattr("evomerge.merging.materializer.MAX_TABLE_BYTES", limit)
    live = family.load_model(dtype="float32")
    for _ in range(2):
        bounded.write(recipe, live)
        bounded.invalidate()
    assert len(bounded._tables) == 3 and sum(table.nbytes for table in bounded._tables.values()) == limit
    assert all(torch.equal(live.state_dict()[name], tensor) for name, tensor in right.items())


def test_the_memory_plan_counts_the_merged_rows(tmp_path: Path) -> None:
    merge(tmp_path, {"base": Model(), "chat": CHAT}, {"tokenizer": {"source": "union"}})
    _, family = open_recipe(next(tmp_path.glob("*.yaml")))
    assert family.nbytes(HEADS[0]) == 2 * 18 * 12 * 4 and family.base.shape(HEADS[0]) == (18, 12)
    write(tmp_path / "chat", replace(CHAT, dtype=torch.bfloat16))
    _, short = open_recipe(next(tmp_path.glob("*.yaml")))
    assert short.nbytes(HEADS[0]) == 18 * 12 * (4 + 2)
    assert family.base.parameter_count == sum(p.numel() for p in family.load_model(dtype="float32").parameters())


@pytest.mark.parametrize(
    ("keys", "exactness"),
    [
        ({"tokenizer": {"source": "union"}}, "exact"),
        ({"tokenizer": {"source": "union"}, "evomerge": {"vocabulary": {"missing": "pieces"}}}, "native"),
        ({"tokenizer": {"source": "union", "tokens": {"<|im_end|>": {"source": {"kind": "pieces"}}}}}, "native"),
        ({"tokenizer": {"source": "union"}, "evomerge": {"vocabulary": {"models": ["{folder}/tool"]}}}, "native"),
    ],
    ids=["mergekit", "pieces", "a piece", "more models"],
)
def test_a_recipe_says_whether_mergekit_makes_the_same_rows(
    keys: dict[str, Any], exactness: str, tmp_path: Path
) -> None:
    for name, model in {"base": Model(), "chat": replace(CHAT, added=("ac",)), "tool": TOOL}.items():
        write(tmp_path / name, model)
    text = json.dumps(keys).replace("<|im_end|>", "ac")
    opened, _ = open_recipe(parse_recipe(document(tmp_path, json.loads(text), {"chat": 0.5})))
    assert yaml.safe_load(dump_recipe(opened))["evomerge"]["exactness"] == exactness
