"""The committed quickstart family is whole: loadable, small, and its tasks are what the scorer expects."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart"
FAMILY, DATA = QUICKSTART / "family", QUICKSTART / "data"
EXPERTS = ("shift", "last", "max")
TASKS = ("copy", *EXPERTS)


@cache
def weights(name: str) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(FAMILY / name, dtype=torch.float32)
    return dict(model.named_parameters())


@cache
def items(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_all_checkpoints_together_are_at_most_four_megabytes() -> None:
    files = [path for path in FAMILY.rglob("*") if path.is_file()]
    assert len(files) >= 4 * (1 + len(EXPERTS))
    assert sum(path.stat().st_size for path in files) <= 4_000_000


@pytest.mark.parametrize("name", ["base", *EXPERTS])
def test_weights_are_stored_in_bf16(name: str) -> None:
    assert AutoModelForCausalLM.from_pretrained(FAMILY / name).dtype == torch.bfloat16


@pytest.mark.parametrize("expert", EXPERTS)
def test_experts_have_the_tensors_of_the_base(expert: str) -> None:
    shapes = {name: tensor.shape for name, tensor in weights(expert).items()}
    assert shapes == {name: tensor.shape for name, tensor in weights("base").items()}


@pytest.mark.parametrize("expert", EXPERTS)
def test_experts_differ_from_the_base_in_every_projection_and_nowhere_else(expert: str) -> None:
    differing = {name for name, tensor in weights(expert).items() if not tensor.equal(weights("base")[name])}
    assert differing == {name for name in weights("base") if name.endswith("_proj.weight")}


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_distinct_and_enough_for_three_slices(task: str) -> None:
    prompts = {item["query"] for item in items(task)}
    assert len(prompts) == len(items(task)) == 60 + 60 + 300


@pytest.mark.parametrize("task", TASKS)
def test_items_have_four_distinct_choices_and_gold_is_one_of_them(task: str) -> None:
    for item in items(task):
        assert set(item) == {"query", "choices", "gold"}
        assert len(item["choices"]) == len(set(item["choices"])) == 4
        assert item["gold"] in range(4)


@pytest.mark.parametrize("task", TASKS)
def test_gold_is_spread_over_all_positions(task: str) -> None:
    positions = [item["gold"] for item in items(task)]
    assert all(positions.count(position) > len(positions) / 8 for position in range(4))


@pytest.mark.parametrize("name", ["base", *EXPERTS])
def test_tokenizer_reads_every_character_and_adds_none(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / name)
    texts = {f"{item['query']} {choice}" for task in TASKS for item in items(task) for choice in item["choices"]}
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
