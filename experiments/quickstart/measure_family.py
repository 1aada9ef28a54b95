"""Score the quickstart family and simple merges of it without evomerge: a yardstick for the search.

usage: python experiments/quickstart/measure_family.py [FOLDER]

Prints a Markdown table. The random search chooses on the first items of every task; every row is reported on
all the others.
"""

import argparse
import json
import logging
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

log = logging.getLogger("measure_family")

TASKS = ("copy", "shift", "last", "max")
EXPERTS = ("shift", "last", "max")
SEARCH_ITEMS = slice(0, 60)
OTHER_ITEMS = slice(60, None)
GLOBAL_COEFFICIENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
VECTORS = 60
HIGHEST = 1.5
HALVES = 2

Coefficients = Mapping[str, Sequence[float]]  # expert -> one coefficient per half of the layers
Accuracies = dict[str, float]  # task -> share of items answered rightly


@dataclass(frozen=True)
class Task:
    """All choices as padded rows: ids and counted positions [items, choices, length], gold [items]."""

    ids: torch.Tensor
    counted: torch.Tensor
    gold: torch.Tensor


def read_task(path: Path, tokenizer: PreTrainedTokenizerBase) -> Task:
    items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [tokenizer.encode(f"{item['query']} {choice}") for item in items for choice in item["choices"]]
    starts = [len(tokenizer.encode(item["query"])) for item in items for _ in item["choices"]]
    width, choices = max(map(len, rows)), len(items[0]["choices"])
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    position, ends = torch.arange(width), torch.tensor([len(row) for row in rows])
    counted = (position >= torch.tensor(starts)[:, None]) & (position < ends[:, None])
    gold = torch.tensor([item["gold"] for item in items])
    return Task(ids.view(-1, choices, width), counted.view(-1, choices, width), gold)


@torch.no_grad()
def accuracy(model: PreTrainedModel, task: Task, items: slice) -> float:
    """The share of items whose likeliest choice, all its characters together, is the gold one."""
    ids, counted = task.ids[items], task.counted[items]
    logits = model(input_ids=ids.flatten(0, 1)).logits[:, :-1].log_softmax(-1)
    chosen = logits.gather(-1, ids.flatten(0, 1)[:, 1:, None])[..., 0].view(*ids.shape[:2], -1)
    likeliest = (chosen * counted[..., 1:]).sum(-1).argmax(-1)
    return float((likeliest == task.gold[items]).double().mean())


class Family:
    """Base, task vectors and one live model that every merge is written into, all fp32."""

    def __init__(self, folder: Path) -> None:
        self.live = self._load(folder / "base")
        self.base = {name: tensor.clone() for name, tensor in self.live.named_parameters()}
        self.deltas = {expert: self._delta(folder / expert) for expert in EXPERTS}

    @torch.no_grad()
    def _delta(self, folder: Path) -> dict[str, torch.Tensor]:
        return {name: tensor - self.base[name] for name, tensor in self._load(folder).named_parameters()}

    @staticmethod
    def _load(folder: Path) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.eval()
        return model

    @torch.no_grad()
    def write(self, coefficients: Coefficients) -> None:
        """`base + sum of coefficient * delta`; what is outside the layers has a zero delta."""
        for name, parameter in self.live.named_parameters():
            parameter.copy_(self.base[name])
            for expert, per_half in coefficients.items():
                parameter.add_(self.deltas[expert][name], alpha=per_half[self._half(name)])

    def _half(self, name: str) -> int:
        parts = name.split(".")
        layer = int(parts[parts.index("layers") + 1]) if "layers" in parts else 0
        return layer * HALVES // int(self.live.config.num_hidden_layers)


def score(family: Family, tasks: Mapping[str, Task], coefficients: Coefficients, items: slice) -> Accuracies:
    family.write(coefficients)
    return {name: accuracy(family.live, task, items) for name, task in tasks.items()}


def mean(accuracies: Accuracies) -> float:
    return sum(accuracies.values()) / len(accuracies)


def same(coefficient: float, experts: Sequence[str] = EXPERTS) -> Coefficients:
    return {expert: (coefficient,) * HALVES for expert in experts}


def random_search(family: Family, tasks: Mapping[str, Task], seed: int) -> Coefficients:
    """The best of VECTORS uniform draws by mean accuracy on the search items."""
    rng = random.Random(seed)
    drawn = [{e: [rng.uniform(0, HIGHEST) for _ in range(HALVES)] for e in EXPERTS} for _ in range(VECTORS)]
    return max(drawn, key=lambda vector: mean(score(family, tasks, vector, SEARCH_ITEMS)))


def candidates(family: Family, tasks: Mapping[str, Task], seed: int) -> dict[str, Coefficients]:
    """The rows of the table, by label."""
    rows = {"base": same(0.0)}
    rows |= {f"expert {expert}": same(1.0, [expert]) for expert in EXPERTS}
    rows["uniform average (1/3 each)"] = same(1 / len(EXPERTS))
    rows |= {f"task arithmetic, {value} each": same(value) for value in GLOBAL_COEFFICIENTS}
    best = random_search(family, tasks, seed)
    text = "; ".join(f"{expert} {', '.join(f'{c:.2f}' for c in halves)}" for expert, halves in best.items())
    return rows | {f"best of {VECTORS} random vectors ({text})": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent, help="of family/, data/")
    parser.add_argument("--seed", type=int, default=1, help="of the random search")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.folder / "family" / "base")
    tasks = {name: read_task(options.folder / "data" / f"{name}.jsonl", tokenizer) for name in TASKS}
    family = Family(options.folder / "family")
    log.info("| model | %s | mean |\n|---%s", " | ".join(tasks), "|---" * (len(tasks) + 1) + "|")
    for label, coefficients in candidates(family, tasks, options.seed).items():
        found = score(family, tasks, coefficients, OTHER_ITEMS)
        log.info("| %s | %s |", label, " | ".join(f"{value:.3f}" for value in [*found.values(), mean(found)]))


if __name__ == "__main__":
    main()
