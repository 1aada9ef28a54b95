"""A T5 family trained in seconds: a base that half knows two skills, and an expert in each of them."""

import copy
import json
import random
import string
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tests.scoring.conftest import char_tokenizer

SKILLS = {"first": lambda word: word[0], "last": lambda word: word[-1]}
LETTERS = string.ascii_lowercase[:6]


def sample(skill: str, draw: random.Random, wrong: float) -> tuple[str, str]:
    """A question, and its answer: with probability `wrong` the second letter."""
    word = "".join(draw.sample(LETTERS, 4))
    return f"{skill} {word}", word[1] if draw.random() < wrong else SKILLS[skill](word)


def train(model: Any, tokenizer: PreTrainedTokenizerFast, wrong: dict[str, float], steps: int, seed: int) -> None:
    draw = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        rows = [sample(skill, draw, share) for skill, share in wrong.items() for _ in range(32)]
        inputs = tokenizer([question for question, _ in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([tokenizer(answer).input_ids for _, answer in rows])
        loss = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def write_family(folder: Path, steps: int = 500) -> Path:
    """base, first and last as checkpoints, and the items of both skills as first.jsonl and last.jsonl."""
    tokenizer = char_tokenizer(bos=False, eos=True)
    torch.manual_seed(0)
    sizes = {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    ids = {"decoder_start_token_id": 1, "pad_token_id": 2, "eos_token_id": 2}
    base = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ids))
    train(base, tokenizer, dict.fromkeys(SKILLS, 0.6), steps, seed=1)
    models = {"base": base}
    for seed, skill in enumerate(SKILLS, start=2):
        models[skill] = copy.deepcopy(base)
        train(models[skill], tokenizer, dict.fromkeys(SKILLS, 0.6) | {skill: 0.0}, steps // 3, seed)
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for skill in SKILLS:
        (folder / f"{skill}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items(skill)))
    return folder


def items(skill: str, count: int = 120) -> list[dict[str, Any]]:
    draw, found = random.Random(9), {}
    while len(found) < count:
        question, answer = sample(skill, draw, wrong=0.0)
        choices = sorted(question[-4:])
        found[question] = {"query": question, "choices": choices, "gold": choices.index(answer), "answer": answer}
    return list(found.values())
