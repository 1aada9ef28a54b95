"""Vocabularies that differ: added tokens, padding, other orders, and the rules for rows that a model does not have."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.parity.compare import assert_same_tensors, config, tensors
from tests.parity.oracle import Oracle
from tests.vocabularies import PLAIN, Model, write

pytestmark = pytest.mark.parity

CHAT = ("<|im_start|>", "<|im_end|>", "<tool>")
TEXT = "abcd <|im_start|> dead <tool> cab h <|im_end|> efab"
TABLES = ("embed_tokens", "lm_head", "shared")
SEEDS = range(20)


def members(chance: random.Random) -> dict[str, Model]:
    """A base and three experts that differ in tokens, their order and padding."""
    tied, kind, order = chance.random() < 0.5, chance.choice(["llama", "llama", "t5"]), list(PLAIN)
    chance.shuffle(order)
    names = ("base", "e1", "e2", "e3")
    return {
        name: Model(
            tokens=order if chance.random() < 0.4 else PLAIN,
            added=chance.sample(CHAT, chance.randrange(4)),
            padding=chance.choice([0, 0, 3]),
            seed=seed,
            tied=tied,
            kind=kind,
        )
        for seed, name in enumerate(names)
    }


def document(chance: random.Random, made: dict[str, Model], paths: dict[str, str]) -> dict[str, Any]:
    """A recipe of a random method with a random tokenizer block."""
    method = chance.choice(["task_arithmetic", "linear", "ties", "slerp"])
    experts = ["e1"] if method == "slerp" else chance.sample(["e1", "e2", "e3"], chance.choice([2, 3]))
    pad = chance.choice([None, None, 4, 32])
    # The rows of padding are equal, and which of equal magnitudes a density keeps is each program's choice.
    values = {"weight": 0.4, **({"density": 0.7 if pad is None else 1.0} if method == "ties" else {})}
    entries: list[dict[str, Any]] = [{"model": paths[name], "parameters": values} for name in experts]
    found: dict[str, Any] = {"merge_method": method, "dtype": "float32", "models": entries}
    if method == "slerp":
        found |= {"models": [{"model": paths[name]} for name in ("base", "e1")], "parameters": {"t": 0.3}}
    if method != "linear":
        found["base_model"] = paths["base"]
    within = [*experts, *(["base"] if method != "linear" else [])]
    # Without a base mergekit takes any model for it.
    source = chance.choice([*(["base", "union"] if method != "linear" else []), paths[chance.choice(within)]])
    block: dict[str, Any] = {"source": source}
    if pad is not None:
        block["pad_to_multiple_of"] = pad
    if chance.random() < 0.6:
        found_rules = rules(chance, {name: made[name] for name in within}, paths)
        # With `base`, mergekit adds tokens to the base's own tokenizer, and fails or takes a row of its padding.
        known = {*PLAIN, *made["base"].added}
        kept = {token: rule for token, rule in found_rules.items() if source != "base" or token in known}
        block["tokens"] = kept
    return {**found, "tokenizer": block}


def rules(chance: random.Random, made: dict[str, Model], paths: dict[str, str]) -> dict[str, Any]:
    """A rule of each kind for some tokens, each with what mergekit asks of it."""
    donor = chance.choice(list(made))
    found: dict[str, Any] = {
        "<new>": {"source": {"kind": "model_token", "model": paths[donor], "token": "ab"}},
        "h": {"source": paths[donor], "force": True},
        "g": {"source": {"kind": "model_token", "model": paths[donor], "token_id": 3}, "force": True},
        "<zero>": {"source": {"kind": "zero"}},
    }
    if made[donor].added:
        found[made[donor].added[0]] = {"source": paths[donor], "force": chance.random() < 0.5}
    return {token: found[token] for token in chance.sample(list(found), chance.randrange(1, len(found) + 1))}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_recipe(seed: int, oracle: Oracle, ours: Callable[..., Path], tmp_path: Path) -> None:
    chance = random.Random(seed)
    made = members(chance)
    paths = {name: write(tmp_path / name, model) for name, model in made.items()}
    recipe = document(chance, made, paths)
    theirs, found = oracle.merge(recipe), ours(recipe)
    expected, merged = AutoTokenizer.from_pretrained(theirs), AutoTokenizer.from_pretrained(found)
    assert config(found)["vocab_size"] == config(theirs)["vocab_size"]
    vocabularies = expected.get_vocab(), merged.get_vocab()
    assert vocabularies[0].keys() == vocabularies[1].keys()
    # Several experts add tokens to a union in an order that mergekit takes from a set.
    order = list(range(config(found)["vocab_size"]))
    for token, row in vocabularies[1].items():
        order[vocabularies[0][token]] = row
    ours_aligned = {
        name: tensor[order] if len(tensor) == len(order) and any(part in name for part in TABLES) else tensor
        for name, tensor in tensors(found).items()
    }
    assert_same_tensors(ours_aligned, tensors(theirs))
    assert merged.convert_ids_to_tokens(merged(TEXT).input_ids) == expected.convert_ids_to_tokens(
        expected(TEXT).input_ids
    )


def test_slices(check: Callable[..., None], tmp_path: Path) -> None:
    made = {"base": Model(), "e1": Model(added=CHAT, seed=1), "e2": Model(tokens=PLAIN[::-1], padding=3, seed=2)}
    paths = {name: write(tmp_path / name, model) for name, model in made.items()}
    sources = [{"model": path, "layer_range": [0, 2], "parameters": {"weight": 0.3}} for path in paths.values()]
    piece = {"sources": sources}
    head = {"merge_method": "task_arithmetic", "base_model": paths["base"], "dtype": "float32"}
    check({**head, "slices": [piece, piece], "tokenizer": {"source": "union"}})
