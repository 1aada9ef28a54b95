"""What a step of a descent costs: losses and the slope in every coefficient, beside forward passes of the same items.

Usage: python experiments/benchmarks/slopes.py [--quick] [--json FILE] [--sizes 10M,135M] [--device cuda]
README.md beside this file says what the columns mean.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from _families import SIZES, Members, build
from _requests import SHAPES, Shape, random_pairs
from _rows import Row, environment, print_table, write_json
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

from evomerge.merging import Materializer, SlopeHooks, recipe_tangents
from evomerge.scoring import ItemLoss, Request
from evomerge.scoring.engine import EncodedLoss, LossEngine
from evomerge.scoring.engine.batches import BatchPlan, plan
from evomerge.scoring.engine.tree import Costs, Pair
from evomerge.space.space import Space

EXPERTS = 4
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ITEMS = 16


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is misspelt ends the program with one line."""
    parser = argparse.ArgumentParser(description="benchmark of the slopes of merge coefficients")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, after each case")
    parser.add_argument("--quick", action="store_true", help="a tiny model and two repeats: shows that it runs")
    parser.add_argument("--sizes", help=f"of {', '.join(SIZES)}; default 10M,135M")
    parser.add_argument("--repeats", type=int, help="default 5")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options = parser.parse_args(arguments)
    options.sizes = (options.sizes or ("1M" if options.quick else "10M,135M")).split(",")
    options.repeats = options.repeats or (2 if options.quick else 5)
    return options


class _Plans:
    """Plans batches of random token pairs, as the encoder does for a tokenizer's."""

    max_length = 2048

    def __init__(self, hidden: int) -> None:
        self._costs = Costs(width=6 * hidden, max_tokens=4096, max_states=1024)

    def batches(self, pairs: list[Pair], max_tokens: int, cached: bool = True) -> BatchPlan:
        """One plan for all pairs."""
        return plan(pairs, self.max_length, self._costs)


def items_of(shape: Shape, vocabulary: int) -> list[EncodedLoss]:
    """Multiple-choice items of random tokens; the first choice is the right one."""
    pairs, count = random_pairs(shape, vocabulary), shape.choices
    request = Request("loglikelihood", ("", ""))
    loss = ItemLoss((request,) * count, 0)
    groups = (pairs[first : first + count] for first in range(0, len(pairs), count))
    return [EncodedLoss(loss, tuple(group), tuple(range(count))) for group in groups]


class Case:
    """A family with its coefficients, one for each expert, layer and projection, and the items of a step."""

    def __init__(self, members: Members, adapters: bool, device: str) -> None:
        experts = members.adapters if adapters else members.experts
        model = LlamaForCausalLM(SIZES[members.size].config())  # the family's has no rotary buffers
        self.model: Any = model.float().to(device).eval().requires_grad_(False)
        self.base, hidden = members.family.base, SIZES[members.size].hidden
        self.space = Space(
            method="task_arithmetic",
            base=members.base,
            experts={f"e{i}": ref for i, ref in enumerate(experts)},
            layout=members.family.layout,
            touched=[members.family.touched(ref) for ref in experts],
            schedule="each",
            components={part: [part] for part in PARTS},
        )
        self.materializer = Materializer(members.family, device)
        self.engine = LossEngine(self.model, _Plans(hidden), trees=True, batch_tokens=4096)  # type: ignore[arg-type]
        self.items = items_of(SHAPES["reading"], SIZES[members.size].vocabulary)[:ITEMS]
        self._generator = np.random.default_rng(0)

    def forward(self) -> None:
        """The losses alone."""
        self.engine.losses(self.items)

    def step(self) -> None:
        """A new candidate is written; its losses and the slope of every coordinate are computed."""
        vector = self._generator.random(self.space.dimensions)
        recipe = self.space.decode(vector)
        self.materializer.write(recipe, self.model)
        tangents = list(recipe_tangents(self.materializer, recipe, self.space.slope_genes))
        embeddings = [self.model.get_input_embeddings()]
        with SlopeHooks(self.model, embeddings, self.base, tangents) as hooks:
            self.engine.backward(self.items, [1.0] * len(self.items), hooks.all_or_nothing)
        assert self.space.pull_back(vector, hooks.sums).any()

    def graph(self) -> None:
        """Forward and backward through the activations alone, without any coefficient."""
        with SlopeHooks(self.model, [self.model.get_input_embeddings()], self.base, []):
            self.engine.backward(self.items, [1.0] * len(self.items))


def measure(case: Case, options: argparse.Namespace) -> Row:
    """Times of a step and of a forward pass in turn, and what a step holds beyond the activations."""
    case.step()
    times: dict[str, list[float]] = {"forward": [], "step": []}
    for _ in range(options.repeats):
        for name, work in (("forward", case.forward), ("step", case.step)):
            start = perf_counter()
            work()
            if options.device != "cpu":
                torch.cuda.synchronize()
            times[name].append(perf_counter() - start)
    ratios = [step / forward for step, forward in zip(times["step"], times["forward"], strict=True)]
    operations = {name: _operations(work) for name, work in (("forward", case.forward), ("step", case.step))}
    peaks = {name: _peak(work, options.device) for name, work in (("graph", case.graph), ("step", case.step))}
    largest = max(parameter.numel() for parameter in case.model.parameters())
    return {
        "coefficients": case.space.dimensions,
        "seconds": statistics.median(times["step"]),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "operations": operations["step"] / operations["forward"],
        "extra_bytes": peaks["step"] - peaks["graph"],
        "largest_tensor_bytes": 4 * largest,
    }


def _operations(work: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _peak(work: Callable[[], None], device: str) -> int:
    """The peak of resident memory in the process, or of allocated memory on a GPU, while `work` runs."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        work()
        return int(torch.cuda.max_memory_allocated())
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak (Linux)
    work()
    status = Path("/proc/self/status").read_text().splitlines()
    values = {line.partition(":")[0]: line.split()[1] for line in status if line.startswith(("VmHWM", "RssFile"))}
    return 1024 * int(values["VmHWM"])


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Adapters, then checkpoints, of each size."""
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix="slopes-") as folder:
            members = build(size, EXPERTS, EXPERTS, Path(folder), options.device)
            for kind in ("adapters", "checkpoints"):
                case = Case(members, kind == "adapters", options.device)
                yield {
                    "benchmark": "slopes",
                    "group": size,
                    "size": size,
                    "experts": f"{EXPERTS} {kind}",
                    **measure(case, options),
                }


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "model": lambda row: str(row["size"]),
    "experts": lambda row: str(row["experts"]),
    "coefficients": lambda row: str(row["coefficients"]),
    "step, s": lambda row: f"{row['seconds']:.2f}",
    "in forward passes": lambda row: f"{row['ratio']:.2f} ({row['ratio_spread'][0]:.2f}–{row['ratio_spread'][1]:.2f})",
    "in operations": lambda row: f"{row['operations']:.2f}",
    "memory beyond the activations, MB": lambda row: f"{row['extra_bytes'] / 1e6:.0f}",
    "largest tensor in fp32, MB": lambda row: f"{row['largest_tensor_bytes'] / 1e6:.0f}",
}


def main() -> None:
    """Measure, print, write."""
    options = parse()
    torch.set_num_threads(options.threads)
    setting, found = environment(options.device, options.threads), []
    for row in rows(options):
        found.append(row)
        if options.json:
            write_json(found, options.json, setting)
    print_table(f"a step of {ITEMS} items × 4 choices; commit {setting['commit']}", dict(COLUMNS), found)


if __name__ == "__main__":
    main()
