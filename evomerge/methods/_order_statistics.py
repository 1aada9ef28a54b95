"""Exact order statistics of a stream of fp32 values, from two passes and two small histograms."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Blocks = Callable[[], Iterable[Tensor]]  # each call yields the same blocks, fp32 [rows, columns of the block]
Counts = NDArray[np.int64]
HALF = 16  # bits of a value per histogram


def order_statistics(blocks: Blocks, ranks: Callable[[int], Sequence[int]]) -> Tensor:
    """The values of every row at the given ranks in ascending order: float64 [rows, ranks] on the host.

    `ranks` maps the length of a row to 0-based ranks. The result comes from integer counts, so it does not depend on
    the order of the blocks, the device or the number of threads.
    """
    upper = _histogram(key >> HALF for key in _keys(blocks)).cumsum(axis=1)
    targets = np.array(ranks(int(upper[0, -1])))
    bins = np.stack([np.searchsorted(row, targets, side="right") for row in upper])
    lower = _histogram(_inside(key, bins) for key in _keys(blocks)).cumsum(axis=1)
    values = np.empty(bins.shape)
    for row, column in np.ndindex(bins.shape):
        high = int(bins[row, column])
        rank_in_bin = targets[column] - (upper[row, high - 1] if high else 0)
        low = int(np.searchsorted(lower[row * len(targets) + column], rank_in_bin, side="right"))
        values[row, column] = _value((high << HALF) + low)
    return torch.from_numpy(values)


def _keys(blocks: Blocks) -> Iterator[Tensor]:
    """Integers 0 … 2³²−1 in the order of the values; the order of the bits of negative floats is reversed."""
    for block in blocks():
        words = block.contiguous().view(torch.int32)
        yield torch.where(words < 0, words ^ 0x7FFFFFFF, words).long() + (1 << 31)


def _value(key: int) -> float:
    word = key - (1 << 31)
    return float(np.array([word if word >= 0 else word ^ 0x7FFFFFFF], dtype=np.int32).view(np.float32)[0])


def _inside(keys: Tensor, bins: Counts) -> list[Tensor]:
    """The lower 16 bits of the keys in each of their row's bins, bin after bin."""
    return [row[row >> HALF == int(upper)] & ((1 << HALF) - 1) for i, row in enumerate(keys) for upper in bins[i]]


def _histogram(halves: Iterable[Iterable[Tensor]]) -> Counts:
    """Counts int64 [rows, 2¹⁶] over a stream of blocks of rows."""
    counts: list[Tensor] = []
    for block in halves:
        found = [torch.bincount(row, minlength=1 << HALF).cpu() for row in block]
        counts = [one + other for one, other in zip(counts, found, strict=True)] if counts else found
    return np.stack([row.numpy() for row in counts])
