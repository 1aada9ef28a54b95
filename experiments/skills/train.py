"""Fine-tune one expert for each of the three skills from one base model.

Usage: python experiments/skills/train.py BASE OUT [--data data] [--lora RANK] [--skills arith clinc sst2] [--rows N]

Without --lora all weights are trained, and OUT/<skill> is a checkpoint; with it, OUT/<skill> is a peft adapter of all
linear layers with alpha = 2 * RANK. The arithmetic is float32. A row is a query and its right answer, and the loss is
the mean negative log-likelihood of the answer and the end of text, so the output head is computed there only.
OUT/<skill>/training.json holds the settings, the tokens, the seconds and the losses.
"""

import argparse
import json
import logging
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

BATCH = 16
WARM_UP = 10  # steps
WINDOW = 8  # batches that are sorted by length together, so that little is padded
CLIP = 1.0

log = logging.getLogger("train")

Tokens = tuple[list[int], list[int]]  # the query's ids, and those of the answer and the end of text


@dataclass(frozen=True)
class Course:
    """How one expert is trained: one pass over so many rows, AdamW, warm-up and a cosine to zero."""

    rows: int
    rate: float  # all weights
    lora_rate: float
    seed: int


COURSES = {
    "arith": Course(rows=2800, rate=1.5e-4, lora_rate=5e-4, seed=12),
    "clinc": Course(rows=1200, rate=5e-5, lora_rate=5e-4, seed=11),
    "sst2": Course(rows=1200, rate=5e-5, lora_rate=3e-4, seed=14),
}


def tokenise(tokenizer: Any, row: dict[str, Any]) -> Tokens:
    """Split where lm-eval splits: the answer's ids are those that follow the ids of the query alone."""
    query = tokenizer(row["query"]).input_ids
    both = tokenizer(f"{row['query']} {row['choices'][row['gold']]}").input_ids
    if both[: len(query)] != query:
        raise SystemExit(f"the tokens of this query change when its answer follows: {row['query']!r}")
    return query, [*both[len(query) :], tokenizer.eos_token_id]


def read(path: Path, count: int) -> list[dict[str, Any]]:
    if not path.is_file():
        raise SystemExit(f"there is no {path}: run experiments/skills/data.py first, or name its folder with --data")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows[:count]


def batches(texts: Sequence[Tokens], rng: random.Random) -> Iterator[list[Tokens]]:
    """One pass in random order, with texts of similar length in one batch."""
    order = rng.sample(texts, len(texts))
    for start in range(0, len(order), BATCH * WINDOW):
        window = sorted(order[start : start + BATCH * WINDOW], key=lambda text: len(text[0]) + len(text[1]))
        groups = [window[place : place + BATCH] for place in range(0, len(window), BATCH)]
        yield from rng.sample(groups, len(groups))


def answer_loss(model: Any, batch: list[Tokens], pad: int) -> torch.Tensor:
    """The mean over the answers' tokens; right-padded, so causal attention needs no mask."""
    texts = [query + answer for query, answer in batch]
    width = max(map(len, texts))
    ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts])
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    places = [
        (place, position)
        for place, (query, answer) in enumerate(batch)
        for position in range(len(query) - 1, len(query) + len(answer) - 1)
    ]
    row, position = torch.tensor(places).T
    logits = model.get_output_embeddings()(hidden[row, position])
    return torch.nn.functional.cross_entropy(logits.float(), ids[row, position + 1])


def fit(model: Any, texts: Sequence[Tokens], rate: float, rng: random.Random, pad: int) -> list[float]:
    """Train in place, return the loss of each step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    steps = sum(1 for _ in batches(texts, random.Random(0)))
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, total_iters=WARM_UP)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - WARM_UP))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], [WARM_UP])
    losses = []
    model.train()
    for batch in batches(texts, rng):
        loss = answer_loss(model, batch, pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 20 == 0:
            log.info("step %d of %d: loss %.3f", len(losses), steps, sum(losses[-20:]) / 20)
    return losses


def add_lora(model: Any, rank: int) -> Any:
    """Wrap the model in peft's adapter of every linear layer but the head; returns the wrapper, which saves it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def train(base: Path, out: Path, rows: list[dict[str, Any]], course: Course, rank: int | None) -> None:
    """One expert, in OUT; the folder appears only when it is complete."""
    start = time.perf_counter()
    torch.manual_seed(course.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [tokenise(tokenizer, row) for row in rows]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    saved = model if rank is None else add_lora(model, rank)
    rate = course.rate if rank is None else course.lora_rate
    losses = fit(model, texts, rate, random.Random(course.seed), tokenizer.pad_token_id)
    partial = out.with_name(out.name + ".partial")
    saved.save_pretrained(partial)
    if rank is None:
        tokenizer.save_pretrained(partial)
    for file in partial.iterdir():
        file.chmod(0o644)  # safetensors writes 0600
    told = asdict(course) | {"rows": len(rows), "lora": rank, "steps": len(losses), "threads": torch.get_num_threads()}
    told["tokens"] = sum(len(query) + len(answer) for query, answer in texts)
    told["seconds"] = round(time.perf_counter() - start)
    told["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    told["loss"] = {"first": sum(losses[:10]) / len(losses[:10]), "last": sum(losses[-10:]) / len(losses[-10:])}
    (partial / "training.json").write_text(json.dumps(told, indent=2) + "\n")
    partial.replace(out)
    log.info("%s: %s", out, json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--lora", type=int, metavar="RANK")
    parser.add_argument("--skills", nargs="+", choices=COURSES, default=list(COURSES))
    parser.add_argument("--rows", type=int, help="fewer rows than the skill's own number, for a try")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    disable_progress_bar()
    for skill in options.skills:
        if (options.out / skill).exists():
            log.info("%s is already there: nothing to do", options.out / skill)
            continue
        course = COURSES[skill]
        rows = read(options.data / skill / "train.jsonl", options.rows or course.rows)
        train(options.base, options.out / skill, rows, course, options.lora)


if __name__ == "__main__":
    sys.exit(main())
