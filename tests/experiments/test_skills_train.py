"""Training an expert of a skill on a tiny model: the loss, its batches, what is saved, and that a seed repeats it."""

import json
import random
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
BASE = EXPERIMENTS / "quickstart" / "family" / "base"
PAD, EOS = 0, 2


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(EXPERIMENTS / "skills" / "train.py"), run_name="skills_train")


@pytest.fixture(scope="module")
def texts(script: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    queries = ("shift abc =", "shift hd =", "shift fgcab =", "last abc =") * 9
    rows = [{"query": query, "choices": ["aa", "bcd"], "gold": place % 2} for place, query in enumerate(queries)]
    return [script["tokenise"](tokenizer, row) for row in rows]


def test_the_loss_counts_answers_only(script: dict[str, Any], texts: list[tuple[list[int], list[int]]]) -> None:
    """Against transformers' own loss, one text at a time and without padding."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    batch = texts[:4]
    total, count = 0.0, 0
    for query, answer in batch:
        labels = torch.tensor([[-100] * len(query) + answer])
        loss = model(input_ids=torch.tensor([query + answer]), labels=labels).loss
        total, count = total + loss.item() * len(answer), count + len(answer)
    assert batch[0][1][-1] == EOS
    assert script["answer_loss"](model, batch, PAD).item() == pytest.approx(total / count, rel=1e-5)


def test_batches_hold_every_text_once(script: dict[str, Any], texts: list[tuple[list[int], list[int]]]) -> None:
    groups = list(script["batches"](texts, random.Random(0)))
    assert sorted(text for group in groups for text in group) == sorted(texts)
    assert {len(group) for group in groups} <= {4, 16}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft reads transformers' old name
@pytest.mark.parametrize("rank", [None, 2])
def test_an_expert_learns_and_is_saved(script: dict[str, Any], rank: int | None, tmp_path: Path) -> None:
    rows = [{"query": "shift abc =", "choices": ["hh", "bcd"], "gold": 0}] * 320
    course = script["Course"](rows=320, rate=1e-3, lora_rate=1e-2, seed=3)
    for name in ("one", "two"):
        script["train"](BASE, tmp_path / name, rows, course, rank)
    told = json.loads((tmp_path / "one" / "training.json").read_text())
    assert told["steps"] == 20
    assert told["loss"]["last"] < told["loss"]["first"]
    weights = "model.safetensors" if rank is None else "adapter_model.safetensors"
    assert (tmp_path / "one" / weights).read_bytes() == (tmp_path / "two" / weights).read_bytes()
    model = AutoModelForCausalLM.from_pretrained(BASE if rank else tmp_path / "one", dtype=torch.float32)
    expert = PeftModel.from_pretrained(model, tmp_path / "one") if rank else model
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    query, answer = script["tokenise"](tokenizer, rows[0])
    assert script["answer_loss"](expert, [(query, answer)], PAD).item() < told["loss"]["last"]
