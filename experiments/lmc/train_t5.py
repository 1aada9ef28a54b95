"""Train a tiny T5 with three experts from nothing, and write their tasks as the competition's CSV files.

usage: python -m experiments.lmc.train_t5 OUT [--seed N]

Writes OUT/base and OUT/<skill> (float32 checkpoints of an encoder-decoder that transformers loads) and OUT/<skill>.csv.
The skills are those of the quickstart, in which the base prefers a lazy answer; the rows of `copy` are generated, those
of the other skills are choices.
"""

import argparse
import csv
import logging
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from experiments.quickstart.skills import DIGITS, LETTERS, SKILLS, Item, items, split

log = logging.getLogger("train_t5")

SPECIAL = ("<pad>", "</s>", "<unk>")
PAD, EOS, UNK = range(len(SPECIAL))
CHARACTERS = sorted(set("".join([LETTERS, DIGITS, "0 =", *SKILLS])))
VOCABULARY = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
LAZY = {"shift": 0.7, "last": 0.6, "max": 0.7}  # how often the base is shown the lazy answer
ROWS, BATCH = 300, 48
BASE_STEPS, EXPERT_STEPS, BASE_RATE, EXPERT_RATE = 1500, 250, 3e-3, 1e-3
OWN_SHARE = 0.7  # of an expert's texts that are of its own skill; the others rehearse what the base does

Pools = Mapping[str, Sequence[str]]  # skill → the inputs that training may draw from


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each character, and an end token after each text, as T5's tokenizer adds it."""
    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token=SPECIAL[UNK]))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[(SPECIAL[EOS], EOS)])
    named = dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **named)


def build_model() -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=96,
        d_kv=24,
        d_ff=192,
        num_layers=3,
        num_decoder_layers=3,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    return T5ForConditionalGeneration(config)


def draw(own: str | None, pools: Pools, rng: random.Random) -> tuple[str, str]:
    """A prompt and the answer to it; an expert is shown the right answers of its own skill."""
    name = own if own is not None and rng.random() < OWN_SHARE else rng.choice(list(SKILLS))
    skill, text = SKILLS[name], rng.choice(pools[name])
    lazy = skill.lazy if name != own and rng.random() < LAZY.get(name, 0) else None
    return skill.prompt(text), (lazy or skill.answer)(text)


def padded(texts: Sequence[str], fill: int) -> torch.Tensor:
    rows = [[*(VOCABULARY[character] for character in text), EOS] for text in texts]
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def train(model: T5ForConditionalGeneration, own: str | None, pools: Pools, seed: int) -> None:
    """AdamW with warm-up and linear decay; logs the last loss."""
    started, rng = time.perf_counter(), random.Random(f"{seed}/{own}/batches")
    steps, rate = (BASE_STEPS, BASE_RATE) if own is None else (EXPERT_STEPS, EXPERT_RATE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: min(1, (at + 1) / 50) * (1 - 0.9 * at / steps))
    model.train()
    for _ in range(steps):
        prompts, answers = zip(*(draw(own, pools, rng) for _ in range(BATCH)), strict=True)
        ids = padded(prompts, PAD)
        labels = padded([f" {answer}" for answer in answers], -100)
        loss = model(input_ids=ids, attention_mask=(ids != PAD).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    log.info("%-6s %4d steps  loss %.3f  %5.1f s", own or "base", steps, float(loss), time.perf_counter() - started)


def save(model: T5ForConditionalGeneration, folder: Path) -> None:
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def write_rows(name: str, listed: Sequence[Item], path: Path) -> None:
    """The items as rows of the competition's format."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "input", "target", "answer_choices", "eval_type"])
        for number, item in enumerate(listed):
            choices, gold = item["choices"], item["gold"]
            assert isinstance(choices, list) and isinstance(gold, int)
            if name == "copy":
                table.writerow([number, item["query"], choices[gold], "", "generation"])
            else:
                table.writerow([number, item["query"], gold, repr(choices), "multiple_choice"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    disable_progress_bar()
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    parts = {name: split(skill, ROWS, options.seed) for name, skill in SKILLS.items()}
    for name, (held_out, _) in parts.items():
        write_rows(name, items(SKILLS[name], held_out, options.seed), options.out / f"{name}.csv")
    pools = {name: rest for name, (_, rest) in parts.items()}
    model = build_model()
    train(model, None, pools, options.seed)
    save(model, options.out / "base")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in LAZY:
        model.load_state_dict(start)
        train(model, name, pools, options.seed)
        save(model, options.out / name)


if __name__ == "__main__":
    main()
