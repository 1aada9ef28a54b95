"""Train a tiny base and LoRA adapters of five skills, and make fifteen adapters beside them that do not matter.

usage: python experiments/selecting/make_family.py OUT [--seed N]

Writes OUT/base, OUT/adapters/NAME in peft's format, and OUT/data/SKILL.jsonl. About two minutes on one core.
"""

import argparse
import json
import logging
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from skills import DIGITS, LETTERS, SKILLS, TASKS, UNRELATED, USEFUL, items, split
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

log = logging.getLogger("make_family")

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIAL))
CHARACTERS = sorted(set("".join([LETTERS, DIGITS, "0 =", *SKILLS])))
VOCABULARY = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
ITEMS, BATCH, RANK = 420, 48, 8
BASE_STEPS, BASE_RATE = 1200, 3e-3
STEPS, RATE = 150, 4e-3
LAZY = 0.65  # how often the base is shown the lazy answer
REHEARSED = 0.25  # share of an adapter's texts that are the base's

Answer = Callable[[str, str], str]  # skill and input → the answer that is trained
Pools = Mapping[str, list[str]]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token=SPECIAL[UNK]))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    named = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **named)


def build_model() -> LlamaForCausalLM:
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4}
    special = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "tie_word_embeddings": True}
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), num_key_value_heads=2, max_position_embeddings=64, **sizes, **special
    )
    return LlamaForCausalLM(config)


def batch(texts: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Right-padded ids; the loss counts the answer and the end of text."""
    rows = [[*(VOCABULARY[c] for c in f"{prompt} {answer}"), EOS] for prompt, answer in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    starts = torch.tensor([len(prompt) for prompt, _ in texts])[:, None]
    counted = (torch.arange(width) >= starts) & (ids != PAD)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": ids.where(counted, -100)}


def train(model: nn.Module, draw: Callable[[], tuple[str, str]], steps: int, rate: float) -> float:
    """AdamW with warm-up and linear decay; returns the last loss."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 20) * (1 - 0.9 * s / steps))
    model.train()
    for _ in range(steps):
        loss = model(**batch([draw() for _ in range(BATCH)])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
    return float(loss.detach())


def lazy_text(rng: random.Random, pools: Pools) -> tuple[str, str]:
    """A text of the base: any skill, mostly with its lazy answer."""
    skill = SKILLS[rng.choice(list(SKILLS))]
    text = rng.choice(pools[skill.name])
    return skill.prompt(text), (skill.lazy if rng.random() < LAZY else skill.answer)(text)


def train_base(folder: Path, pools: Pools, seed: int) -> None:
    torch.manual_seed(seed)
    model, rng, start = build_model(), random.Random(f"{seed}/base"), time.perf_counter()
    loss = train(model, lambda: lazy_text(rng, pools), BASE_STEPS, BASE_RATE)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    log.info("base: loss %.3f, %.0f s", loss, time.perf_counter() - start)


def train_adapter(base: Path, folder: Path, skill: str, answer: Answer, pools: Pools, seed: int) -> None:
    """An adapter of one skill, with these answers."""
    torch.manual_seed(seed)
    rng, start = random.Random(f"{seed}/{folder.name}"), time.perf_counter()
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", lora_dropout=0.0)
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), config)

    def draw() -> tuple[str, str]:
        if rng.random() < REHEARSED:
            return lazy_text(rng, pools)
        text = rng.choice(pools[skill])
        return SKILLS[skill].prompt(text), answer(skill, text)

    loss = train(model, draw, STEPS, RATE)
    model.save_pretrained(folder)
    log.info("%s: loss %.3f, %.0f s", folder.name, loss, time.perf_counter() - start)


def right(skill: str, text: str) -> str:
    return SKILLS[skill].answer(text)


def wrong(skill: str, text: str) -> str:
    return SKILLS[skill].lazy(text)


def changed(source: Path, folder: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    """A copy of an adapter whose tensors are changed."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "adapter_model.safetensors")
    save_file(
        {name: change(name, tensor).contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )


def noisy(share: float, seed: int) -> Callable[[str, Tensor], Tensor]:
    """Adds noise with this share of each factor's norm."""
    generator = torch.Generator().manual_seed(seed)

    def change(name: str, tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator)
        return tensor + share * tensor.norm() / noise.norm() * noise

    return change


def random_like(seed: int) -> Callable[[str, Tensor], Tensor]:
    """Random factors with the norms of the trained ones."""
    generator = torch.Generator().manual_seed(seed)

    def change(name: str, tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator)
        return tensor.norm() / noise.norm() * noise

    return change


def scaled(factor: float) -> Callable[[str, Tensor], Tensor]:
    return lambda name, tensor: factor * tensor if "lora_B" in name else tensor


def make_useless(out: Path, base: Path, pools: Pools, seed: int) -> None:
    """Four copies with noise, three random ones, four of other skills or wrong answers, four of a wrong scale."""
    for skill, share, name in (("shift", 0.1, "a"), ("shift", 0.2, "b"), ("max", 0.1, "a"), ("last", 0.2, "a")):
        changed(out / skill, out / f"copy-{skill}-{name}", noisy(share, seed + ord(name)))
    for place, skill in enumerate(("shift", "last", "min")):
        changed(out / skill, out / f"random-{place}", random_like(seed + place))
    for skill in UNRELATED:
        train_adapter(base, out / f"other-{skill}", skill, right, pools, seed)
    for skill in ("shift", "max"):
        train_adapter(base, out / f"wrong-{skill}", skill, wrong, pools, seed)
    for skill, factor, name in (
        ("back", 8.0, "large"),
        ("min", 8.0, "large"),
        ("max", -1.0, "negative"),
        ("last", 0.02, "small"),
    ):
        changed(out / skill, out / f"{name}-{skill}", scaled(factor))


def make(out: Path, seed: int) -> None:
    """Everything below `out`."""
    parts = {name: split(skill, ITEMS, seed) for name, skill in SKILLS.items()}
    pools = {name: rest for name, (_, rest) in parts.items()}
    (out / "data").mkdir(parents=True)
    for name in TASKS:
        lines = [json.dumps(item) + "\n" for item in items(SKILLS[name], parts[name][0], seed)]
        (out / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    train_base(out / "base", pools, seed)
    for skill in USEFUL:
        train_adapter(out / "base", out / "adapters" / skill, skill, right, pools, seed)
    make_useless(out / "adapters", out / "base", pools, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    disable_progress_bar()
    torch.set_num_threads(1)
    make(options.out, options.seed)


if __name__ == "__main__":
    main()
