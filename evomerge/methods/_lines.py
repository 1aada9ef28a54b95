"""Combinations with coefficients of their own for every line of a tensor: its rows, or its columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb, PerRow, Sources
from evomerge.methods import Setup
from evomerge.methods._gram import Matrix, line_products

Along = Literal["last", "first"]
Vector = NDArray[np.float64]


def products_along(tensors: list[Tensor], along: Along) -> Matrix:
    """Inner products within each line along the last or the first axis, [lines, n, n]; a vector is one line."""
    if tensors[0].ndim < 2:
        return line_products([tensor.reshape(1, -1) for tensor in tensors])
    if along == "last":
        return line_products([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors])
    return line_products([tensor.reshape(tensor.shape[0], -1).T for tensor in tensors])


def remembered(setup: Setup, read: Callable[[], list[Tensor]], along: Along) -> Matrix:
    """`products_along`, from one pass over the weights at the first candidate that asks."""
    if ("lines", along) not in setup.memo:
        setup.memo["lines", along] = products_along(read(), along)
    return np.asarray(setup.memo["lines", along])


def combine(sources: Sources, along: Along, base: Vector, experts: Sequence[Vector]) -> LinComb | Consensus:
    """Σ cᵢ·xᵢ over weights with one coefficient per line: [lines] for the base and for each expert."""
    shape = sources.shape
    if len(base) == 1:
        return LinComb(float(base[0]), tuple(float(own[0]) for own in experts))
    if along == "last" and len(shape) == 2:
        return LinComb(_rows(base), tuple(_rows(own) for own in experts))
    more = base + sum(experts) - 1.0  # of the base, beside what base + update has of it already
    more = np.where(np.abs(more) < 1e-12, 0.0, more)
    numbers = np.concatenate([more, *experts])
    divisor = shape[-1] if along == "last" else len(base)
    return Consensus(PerLine(along), tuple(numbers.tolist()), (divisor, len(base)))


@dataclass(frozen=True)
class PerLine:
    """`numbers` are [1 + experts, lines]; `words` are the last axis's length, or the number of columns, and `lines`."""

    along: Along

    def __call__(self, block: Block) -> Tensor:
        """cₗ·base + Σ cᵢₗ·δᵢ, with each element's line from its index in the tensor."""
        low = block.index_low.to(torch.int64) & 0xFFFFFFFF
        index = torch.arange(block.base.numel(), dtype=torch.int64, device=block.base.device)
        index = index + low + block.index_high.to(torch.int64) * (1 << 32)
        divisor, lines = block.words[0].to(torch.int64), block.words[1].to(torch.int64)
        line = index // divisor if self.along == "last" else index % divisor
        total = block.base * block.numbers[line]
        for i, delta in enumerate(block.deltas, 1):
            total = total + delta * block.numbers[line + lines * i]
        return total


def _rows(values: Vector) -> PerRow:
    return PerRow(tuple(values.tolist()))
