"""Order statistics of |δ|: the threshold and the kept L1 norm for any density, from one sort per tensor and expert.

A search rounds densities to 1/1000 (`DENSITY_DECIMALS`), so a table with one row per step serves every candidate
without reading a weight. A recipe may have other densities; their values are computed on demand.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.kernels import Sources
from evomerge.methods import Setup, State

DENSITY_DECIMALS = 3
STEPS = 10**DENSITY_DECIMALS
MEMO_ENTRIES = 64
BITS = 20  # upper bits of a magnitude's 31 that the histogram distinguishes: 8 of exponent, 12 of mantissa
TRIM_OFFSETS = (-1, 0)
BAND_OFFSETS = (-2, -1, 0, 1, 2)  # a band's ends come from two ⌊k/1000·n⌋, each rounded down by up to 1


@cache
def counts(size: int, offsets: tuple[int, ...] = TRIM_OFFSETS) -> NDArray[np.int64]:
    """The numbers of kept elements in a table, ascending: ⌊k/1000·n⌋ plus each of `offsets`, at least 1."""
    kept = np.array([int(k / STEPS * size) for k in range(STEPS + 1)])
    return np.unique(np.clip(np.concatenate([kept + offset for offset in offsets]), 1, max(1, size)))


def prepare(sources: Sources, offsets: tuple[int, ...] = TRIM_OFFSETS) -> State:
    """Tables over `counts`: `magnitudes` fp32 [experts, counts], the smallest kept |δ|; `kept_l1` float64, the L1 norm
    of the kept elements; `above_l1` float64, that of the elements above the smallest kept one; `l1` float64 [experts],
    that of all elements."""
    size = sources.shape.numel()
    rows = [_tables(sources.delta(i), counts(size, offsets)) for i in range(len(sources))]
    return {
        "counts": torch.from_numpy(counts(size, offsets)),
        "magnitudes": torch.stack([row[0] for row in rows]),
        "kept_l1": torch.stack([row[1] for row in rows]),
        "above_l1": torch.stack([row[2] for row in rows]),
        "l1": torch.tensor([row[3] for row in rows], dtype=torch.float64),
    }


def prepare_model(setup: Setup) -> State:
    """`model_magnitudes` fp32 [experts, 1001]: the |δ| that a fraction k/1000 of the whole model's elements reaches."""
    memo = setup.model.memo
    if "model_magnitudes" not in memo:
        shares = np.arange(STEPS + 1) / STEPS
        rows = [[histogram_threshold(setup, i, share) for share in shares] for i in range(len(setup.sources))]
        memo["model_magnitudes"] = torch.tensor(rows, dtype=torch.float32)
    return {"model_magnitudes": memo["model_magnitudes"]}


def model_magnitude_threshold(setup: Setup, expert: int, density: float) -> float:
    """The magnitude that a fraction `density` of the expert's task-vector elements in all tensors reaches."""
    step = round(density * STEPS)
    if step / STEPS == density:
        return float(setup.state["model_magnitudes"][expert, step])
    return histogram_threshold(setup, expert, density)


def histogram_threshold(setup: Setup, expert: int, density: float) -> float:
    """The threshold of a density from a histogram of the top 20 bits of fp32 |δ|.

    It is at most one part in 4096 below the exact value.
    """
    memo = setup.model.memo
    if ("histogram", expert) not in memo:
        total = torch.zeros(1 << BITS, dtype=torch.int64)
        for sources in setup.model.sources():
            words = sources.delta(expert).abs_().flatten().view(torch.int32) >> (31 - BITS)
            total += torch.bincount(words, minlength=1 << BITS).cpu()
        memo["histogram", expert] = (
            total.flip(0).cumsum(0).numpy()
        )  # number of elements at or above each bin, from the largest bin down
    reached = memo["histogram", expert]
    keep = max(1, int(density * reached[-1]))
    word = len(reached) - 1 - int(np.searchsorted(reached, keep))
    return float(np.array([word << (31 - BITS)], dtype=np.int32).view(np.float32)[0])


def magnitude_threshold(setup: Setup, expert: int, keep: int) -> float:
    """The smallest of the `keep` largest magnitudes of the task vector."""
    place = _place(setup, keep)
    if place is not None:
        return float(setup.state["magnitudes"].numpy()[expert, place])
    if ("kept", expert, keep) not in setup.memo:
        evict_oldest(setup.memo)
        magnitudes = setup.sources.delta(expert).abs_().flatten()
        setup.memo["kept", expert, keep] = float(magnitudes.kthvalue(magnitudes.numel() - keep + 1).values)
    return float(setup.memo["kept", expert, keep])


def kept_l1(setup: Setup, expert: int, keep: int) -> float:
    """The L1 norm of the elements with |δ| ≥ `magnitude_threshold`."""
    place = _place(setup, keep)
    if place is not None:
        return float(setup.state["kept_l1"].numpy()[expert, place])
    if ("l1", expert, keep) not in setup.memo:
        evict_oldest(setup.memo)
        delta = setup.sources.delta(expert).abs_()
        below = delta < magnitude_threshold(setup, expert, keep)
        setup.memo["l1", expert, keep] = exact_l1(delta.masked_fill_(below, 0.0))
    return float(setup.memo["l1", expert, keep])


def above_l1(setup: Setup, expert: int, keep: int) -> float:
    """The L1 norm of the elements with |δ| > `magnitude_threshold`."""
    place = _place(setup, keep)
    if place is not None:
        return float(setup.state["above_l1"].numpy()[expert, place])
    if ("above", expert, keep) not in setup.memo:
        evict_oldest(setup.memo)
        delta = setup.sources.delta(expert).abs_()
        not_above = delta <= magnitude_threshold(setup, expert, keep)
        setup.memo["above", expert, keep] = exact_l1(delta.masked_fill_(not_above, 0.0))
    return float(setup.memo["above", expert, keep])


def fixed_point_unit(top: float) -> float:
    """A power of two 30 bits below the largest magnitude: sums of 2³³ such integers fit in int64."""
    return float(2.0 ** (int(np.frexp(np.float32(top))[1]) - 30))


def exact_l1(delta: Tensor, top: float | None = None) -> float:
    """The L1 norm as a fixed-point sum, whose bits do not depend on order, device or number of threads.

    `top` sets the fixed-point unit; it is the largest magnitude of the task vector if `delta` is a part of one.
    """
    if top is None:
        top = float(delta.abs().max()) if delta.numel() else 0.0
    if top == 0.0 or not np.isfinite(top):
        return top
    unit = fixed_point_unit(top)
    return float((delta.abs().double() / unit).round().to(torch.int64).sum()) * unit


def evict_oldest(memo: dict[Any, Any]) -> None:
    """Make room for one entry by deleting the oldest: values that are computed on demand are rarely needed again."""
    while len(memo) >= MEMO_ENTRIES:
        del memo[next(iter(memo))]


def _place(setup: Setup, keep: int) -> int | None:
    if "counts" not in setup.state:
        return None
    kept_counts = setup.state["counts"].numpy()
    place = int(kept_counts.searchsorted(keep))
    return place if place < len(kept_counts) and kept_counts[place] == keep else None


def _tables(delta: Tensor, kept_counts: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, float]:
    ordered = sorted_values(delta.abs_().flatten())
    low = ordered[delta.numel() - kept_counts]
    top = float(ordered[-1])
    if top == 0.0 or not np.isfinite(top):
        same = torch.full((len(low),), top, dtype=torch.float64)
        return torch.from_numpy(low), same, same, top
    unit = fixed_point_unit(top)
    below = np.cumsum(np.round(ordered.astype(np.float64) / unit).astype(np.int64))

    def norm(side: Literal["left", "right"]) -> Tensor:
        first = np.searchsorted(ordered, low, side)
        dropped = np.where(first > 0, below[first - 1], 0)
        return torch.from_numpy((below[-1] - dropped).astype(np.float64) * unit)

    return torch.from_numpy(low), norm("left"), norm("right"), float(below[-1]) * unit  # ties are kept


def sorted_values(flat: Tensor) -> NDArray[np.float32]:
    """The values in ascending order on the host; on a CPU numpy sorts floats ten times faster than torch."""
    if flat.device.type == "cpu":
        return np.sort(flat.numpy())
    return np.asarray(flat.sort().values.cpu().numpy(), dtype=np.float32)
