"""Exact order statistics of fp32 values that come as a stream, in two passes and two small histograms."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Blocks = Callable[[], Iterable[Tensor]]  # fp32 [rows, some columns] each; the same again on every call
Counts = NDArray[np.int64]
HALF = 16  # bits of a value that one histogram tells apart


def order_statistics(blocks: Blocks, places: Callable[[int], Sequence[int]]) -> Tensor:
    """The values at some places of every row in ascending order, float64 [rows, places], on the host.

    `places` is told the length of a row. Integer counts make them the same in any order, device or thread count.
    """
    upper = _histogram(key >> HALF for key in _keys(blocks)).cumsum(axis=1)
    wanted = np.array(places(int(upper[0, -1])))
    bins = np.stack([np.searchsorted(row, wanted, side="right") for row in upper])
    lower = _histogram(_inside(key, bins) for key in _keys(blocks)).cumsum(axis=1)
    found = np.empty(bins.shape)
    for row, column in np.ndindex(bins.shape):
        high = int(bins[row, column])
        rest = wanted[column] - (upper[row, high - 1] if high else 0)
        low = int(np.searchsorted(lower[row * len(wanted) + column], rest, side="right"))
        found[row, column] = _value((high << HALF) + low)
    return torch.from_numpy(found)


def _keys(blocks: Blocks) -> Iterator[Tensor]:
    """Integers 0 … 2³²−1 in the order of the values: the bits of negative ones count backwards."""
    for block in blocks():
        words = block.contiguous().view(torch.int32)
        yield torch.where(words < 0, words ^ 0x7FFFFFFF, words).long() + (1 << 31)


def _value(key: int) -> float:
    word = key - (1 << 31)
    return float(np.array([word if word >= 0 else word ^ 0x7FFFFFFF], dtype=np.int32).view(np.float32)[0])


def _inside(keys: Tensor, bins: Counts) -> list[Tensor]:
    """The lower halves of the keys that lie in their row's bins, bin after bin."""
    return [row[row >> HALF == int(one)] & ((1 << HALF) - 1) for i, row in enumerate(keys) for one in bins[i]]


def _histogram(halves: Iterable[Iterable[Tensor]]) -> Counts:
    """Counts int64 [rows, 2^HALF] over a stream of blocks of rows."""
    counts: list[Tensor] = []
    for block in halves:
        found = [torch.bincount(row, minlength=1 << HALF).cpu() for row in block]
        counts = [one + other for one, other in zip(counts, found, strict=True)] if counts else found
    return np.stack([row.numpy() for row in counts])
