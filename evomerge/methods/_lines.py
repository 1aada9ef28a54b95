"""Linear combinations with one coefficient per line of a tensor, where a line is a row or a column."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb, PerRow, Sources
from evomerge.methods import Setup
from evomerge.methods._contract import FloatArray
from evomerge.methods._gram import line_products

Along = Literal["last", "first"]


def products_along(tensors: list[Tensor], along: Along) -> FloatArray:
    """Inner products within each line along the last or the first axis, [lines, n, n]; a 1-D tensor is one line."""
    if tensors[0].ndim < 2:
        return line_products([tensor.reshape(1, -1) for tensor in tensors])
    if along == "last":
        return line_products([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors])
    return line_products([tensor.reshape(tensor.shape[0], -1).T for tensor in tensors])


def cached_products(setup: Setup, read: Callable[[], list[Tensor]], along: Along) -> FloatArray:
    """`products_along`, computed by the first candidate that needs it and cached in `setup.memo`."""
    if ("lines", along) not in setup.memo:
        setup.memo["lines", along] = products_along(read(), along)
    return np.asarray(setup.memo["lines", along])


def combine(sources: Sources, along: Along, base: FloatArray, experts: Sequence[FloatArray]) -> LinComb | Consensus:
    """Σ cᵢ·xᵢ over weights, with coefficients [lines] for the base and for each expert."""
    shape = sources.shape
    if len(base) == 1:
        return LinComb(float(base[0]), tuple(float(values[0]) for values in experts))
    if along == "last" and len(shape) == 2:
        return LinComb(_rows(base), tuple(_rows(values) for values in experts))
    excess = base + sum(experts) - 1.0  # the base's coefficient beyond that in base + Σ cᵢδᵢ
    excess = np.where(np.abs(excess) < 1e-12, 0.0, excess)
    numbers = np.concatenate([excess, *experts])
    divisor = shape[-1] if along == "last" else len(base)
    return Consensus(PerLine(along), tuple(numbers.tolist()), (divisor, len(base)))


@dataclass(frozen=True)
class PerLine:
    """A rule with `numbers` [1 + experts, lines] and `words` (length of the last axis or number of columns, lines)."""

    along: Along

    def __call__(self, block: Block) -> Tensor:
        """cₗ·base + Σ cᵢₗ·δᵢ, where the line l of an element follows from its index in the tensor."""
        low = block.index_low.to(torch.int64) & 0xFFFFFFFF
        index = torch.arange(block.base.numel(), dtype=torch.int64, device=block.base.device)
        index = index + low + block.index_high.to(torch.int64) * (1 << 32)
        divisor, lines = block.words[0].to(torch.int64), block.words[1].to(torch.int64)
        line = index // divisor if self.along == "last" else index % divisor
        total = block.base * block.numbers[line]
        for i, delta in enumerate(block.deltas, 1):
            total = total + delta * block.numbers[line + lines * i]
        return total


def _rows(values: FloatArray) -> PerRow:
    return PerRow(tuple(values.tolist()))
