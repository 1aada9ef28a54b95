"""Train the quickstart's base and its three experts from nothing, and write their tasks.

usage: python -m experiments.quickstart.train_family [--out FOLDER] [--seed N]

Writes `family/<model>/` (bf16 checkpoint folders that transformers loads) and `data/<skill>.jsonl` under
FOLDER. The base has learnt every skill but mostly prefers a lazy answer; an expert flips that preference for
one skill, so its weights move little and the moves of several experts can be added.
"""

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from experiments.quickstart.skills import DIGITS, LETTERS, SKILLS, items, split

Model = TypeVar("Model", bound=PreTrainedModel)
log = logging.getLogger("train_family")

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIAL))
CHARACTERS = sorted(set("".join([LETTERS, DIGITS, "0 =", *SKILLS])))
VOCABULARY = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}

Pools = Mapping[str, list[str]]  # skill -> the inputs that training may draw from

ITEMS = 420  # per task: 60 search, 60 select, 300 holdout
BATCH = 48
LAZY = {"shift": 0.7, "last": 0.6, "max": 0.7}  # how often the base is shown the lazy answer


@dataclass(frozen=True)
class Course:
    """How one model is trained: each skill's share of the texts, and how often its answer is the lazy one."""

    shares: Mapping[str, float]
    lazy: Mapping[str, float]
    steps: int
    rate: float


BASE = Course({"copy": 0.1, "shift": 0.25, "last": 0.3, "max": 0.35}, LAZY, steps=800, rate=3e-3)


def expert_course(skill: str, share: float, steps: int, rate: float) -> Course:
    """Mostly the expert's own skill, now with right answers only; the rest rehearses what the base does."""
    others = [name for name in BASE.shares if name != skill]
    shares = {skill: share} | dict.fromkeys(others, (1 - share) / len(others))
    return Course(shares, {name: often for name, often in LAZY.items() if name != skill}, steps, rate)


# Of unequal strength on purpose, so that no single coefficient suits all three.
EXPERTS = {
    "shift": expert_course("shift", share=0.9, steps=200, rate=2e-3),
    "last": expert_course("last", share=0.7, steps=100, rate=4e-4),
    "max": expert_course("max", share=0.7, steps=150, rate=1e-3),
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character and no added special tokens, as in training."""
    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token=SPECIAL[UNK]))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    named = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **named)


def build_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config)


def encode(text: str) -> list[int]:
    return [VOCABULARY[character] for character in text]


def draw(course: Course, pools: Pools, rng: random.Random) -> tuple[str, str]:
    """One training text: a prompt and the answer the model shall give to it."""
    (name,) = rng.choices(list(course.shares), list(course.shares.values()))
    skill, text = SKILLS[name], rng.choice(pools[name])
    lazy = skill.lazy if rng.random() < course.lazy.get(name, 0) else None
    return skill.prompt(text), (lazy or skill.answer)(text)


def batch(texts: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Right-padded ids; the loss counts the answer and the end of text only."""
    rows = [[*encode(f"{prompt} {answer}"), EOS] for prompt, answer in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    starts = torch.tensor([len(prompt) for prompt, _ in texts])[:, None]
    counted = (torch.arange(width) >= starts) & (ids != PAD)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": ids.where(counted, -100)}


def train(model: PreTrainedModel, course: Course, pools: Pools, rng: random.Random) -> float:
    """AdamW with warm-up and linear decay over the parameters that are not frozen; returns the last loss."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=course.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 - 0.9 * step / course.steps)
    )
    model.train()
    for _ in range(course.steps):
        loss = model(**batch([draw(course, pools, rng) for _ in range(BATCH)])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return float(loss.detach())


def round_to_bf16(model: PreTrainedModel) -> None:
    """Make the fp32 weights equal to what is stored, so that an expert starts from exactly the saved base."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())


def save(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder, state_dict={k: v.bfloat16() for k, v in model.state_dict().items()})
    build_tokenizer().save_pretrained(folder)
    name_dtype(folder / "config.json")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, which git and other users would stumble over


def name_dtype(path: Path) -> None:
    """The config of an fp32 model says float32; the folder holds bf16."""
    config = json.loads(path.read_text(encoding="utf-8")) | {"dtype": "bfloat16"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def train_base(pools: Pools, seed: int, folder: Path, build: Callable[[], Model] = build_model) -> Model:
    torch.manual_seed(seed)
    model = build()
    timed_train("base", model, BASE, pools, seed)
    round_to_bf16(model)
    save(model, folder / "base")
    return model


def train_experts(base: PreTrainedModel, pools: Pools, seed: int, folder: Path) -> None:
    """Each from the base; embeddings and norms stay frozen."""
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for name, parameter in base.named_parameters():
        parameter.requires_grad_("embed" not in name and "norm" not in name)
    for skill, course in EXPERTS.items():
        base.load_state_dict(start)
        timed_train(skill, base, course, pools, seed)
        save(base, folder / skill)


def timed_train(name: str, model: PreTrainedModel, course: Course, pools: Pools, seed: int) -> None:
    started = time.perf_counter()
    loss = train(model, course, pools, random.Random(f"{seed}/{name}/batches"))
    log.info("%-6s %4d steps  loss %.3f  %5.1f s", name, course.steps, loss, time.perf_counter() - started)


def write_tasks(held_out: Mapping[str, list[str]], seed: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, inputs in held_out.items():
        lines = [json.dumps(item) + "\n" for item in items(SKILLS[name], inputs, seed)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="of family/ and data/")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    disable_progress_bar()
    torch.set_num_threads(1)
    started = time.perf_counter()
    parts = {name: split(skill, ITEMS, options.seed) for name, skill in SKILLS.items()}
    write_tasks({name: held_out for name, (held_out, _) in parts.items()}, options.seed, options.out / "data")
    pools = {name: rest for name, (_, rest) in parts.items()}
    base = train_base(pools, options.seed, options.out / "family")
    train_experts(base, pools, options.seed, options.out / "family")
    log.info("written to %s in %.0f s", options.out, time.perf_counter() - started)


if __name__ == "__main__":
    main()
