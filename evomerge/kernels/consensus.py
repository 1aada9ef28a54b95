"""The `consensus` pass adds an elementwise rule of the task vectors to the base; `lowrank` adds a low-rank update."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.kernels.coefficients import Block, Consensus, LowRank, Rule
from evomerge.kernels.factors import Factors
from evomerge.kernels.lowrank import Tiles, tile
from evomerge.kernels.runner import Runner
from evomerge.kernels.sources import Key, Kind, Sources


@dataclass(frozen=True)
class Elementwise:
    """base + rule(task vectors) in fp32; `kinds` are the experts' inputs: a weight, an update or none."""

    rule: Rule
    kinds: tuple[Kind, ...]

    def __call__(self, numbers: Tensor, words: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """The merged elements of one block; `tensors` are the base, then the experts' inputs, then the bank tensors."""
        base, remaining = tensors[0].float(), list(tensors[1:])
        deltas = []
        for kind in self.kinds:
            if kind == "none":
                deltas.append(torch.zeros_like(base))
            else:
                deltas.append(remaining.pop(0).float() - base if kind == "weight" else remaining.pop(0))
        block = Block(base, tuple(deltas), tuple(remaining), numbers, words[2:], words[0], words[1])
        update = self.rule(block)
        return torch.where(update == 0, base, update + base)  # a plain sum would turn −0.0 into 0.0


def consensus(sources: Sources, coefficients: Consensus, out: Tensor, runner: Runner) -> Tensor:
    """Write base + rule(δ₁ … δ_N) into `out`; dense updates of adapters are computed one tile at a time."""
    kernel = Elementwise(coefficients.rule, sources.kinds)
    numbers = torch.tensor(coefficients.numbers, dtype=torch.float32).to(out.device, non_blocking=True)
    if "update" not in sources.kinds:
        dense = (i for i, kind in enumerate(sources.kinds) if kind == "weight")
        keys: list[Key] = [None, *dense, *coefficients.bank]
        return runner.run(kernel, out.view(-1), [sources.flat(key) for key in keys], numbers, coefficients.words)
    flags = []
    updates = [update for i in range(len(sources)) if (update := sources.update(i)) is not None]
    inputs = [sources.base, *updates, *(sources.bank(name) for name in coefficients.bank)]
    for rows in Tiles(out):
        flat = [_tile(entry, rows).reshape(-1) for entry in inputs]
        start = rows.start * out[:1].numel()
        flags.append(runner.run(kernel, out[rows].view(-1), flat, numbers, coefficients.words, start))
    return torch.stack(flags).sum()


def lowrank(sources: Sources, coefficients: LowRank, out: Tensor, runner: Runner) -> Tensor:
    """Write base + U·core·V into `out`; U and V are the prepared `bank.up` and `bank.down`."""
    core = torch.from_numpy(coefficients.core).to(out.device, torch.float32)
    update = Factors(sources.bank("up").float() @ core, sources.bank("down").float(), 1.0)
    base, flags = sources.base, []
    kernel = Elementwise(_add, ("update",))
    no_numbers = torch.empty(0, device=out.device)
    for rows in Tiles(out):
        flat = [base[rows].reshape(-1), _tile(update, rows).reshape(-1)]
        flags.append(runner.run(kernel, out[rows].view(-1), flat, no_numbers, ()))
    return torch.stack(flags).sum()


def _add(block: Block) -> Tensor:
    return block.deltas[0]


def _tile(entry: Tensor | Factors, rows: slice) -> Tensor:
    return tile(entry, rows) if isinstance(entry, Factors) else entry[rows]
