"""Order statistics of |δ|: the threshold and the kept L1 norm for any density, from one sort per tensor and expert.

A search moves densities in steps of 1/1000 (`DENSITY_DECIMALS`), so two numbers per step answer every candidate without
reading a weight; other densities, which a recipe may have, are found on demand.
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
MEMO = 64
BITS = 20  # of a magnitude's 31: eight of exponent, twelve of mantissa
NEAR_TRIM = (-1, 0)
NEAR_BAND = (-2, -1, 0, 1, 2)  # the ends of a band: sums and complements of two ⌊k/1000·n⌋, which lose up to one each


@cache
def counts(size: int, near: tuple[int, ...] = NEAR_TRIM) -> NDArray[np.int64]:
    """The numbers of kept elements that a table answers for: ⌊k/1000·n⌋ and those `near` it, at least 1, ascending."""
    kept = np.array([int(k / STEPS * size) for k in range(STEPS + 1)])
    return np.unique(np.clip(np.concatenate([kept + offset for offset in near]), 1, max(1, size)))


def prepare(sources: Sources, near: tuple[int, ...] = NEAR_TRIM) -> State:
    """`magnitudes` fp32 [experts, counts]: the smallest kept |δ|; `kept_l1` float64: the L1 norm of what is kept;
    `above_l1` float64: that of what is larger than the smallest kept; `l1` float64 [experts]: that of everything."""
    size = sources.shape.numel()
    rows = [_tables(sources.delta(i), counts(size, near)) for i in range(len(sources))]
    return {
        "counts": torch.from_numpy(counts(size, near)),
        "magnitudes": torch.stack([row[0] for row in rows]),
        "kept_l1": torch.stack([row[1] for row in rows]),
        "above_l1": torch.stack([row[2] for row in rows]),
        "l1": torch.tensor([row[3] for row in rows], dtype=torch.float64),
    }


def prepare_model(setup: Setup) -> State:
    """`model_magnitudes` fp32 [experts, 1001]: the |δ| that a share k/1000 of the whole model's elements reaches."""
    memo = setup.whole.memo
    if "model_magnitudes" not in memo:
        shares = np.arange(STEPS + 1) / STEPS
        rows = [[model_threshold(setup, i, share) for share in shares] for i in range(len(setup.sources))]
        memo["model_magnitudes"] = torch.tensor(rows, dtype=torch.float32)
    return {"model_magnitudes": memo["model_magnitudes"]}


def model_kept(setup: Setup, expert: int, density: float) -> float:
    """The magnitude that a share `density` of all the expert's task-vector elements reaches, over every tensor."""
    step = round(density * STEPS)
    if step / STEPS == density:
        return float(setup.state["model_magnitudes"][expert, step])
    return model_threshold(setup, expert, density)


def model_threshold(setup: Setup, expert: int, density: float) -> float:
    """The same from the histogram of the top 20 bits of |δ| as fp32, so to one part in 4096 below the exact value."""
    memo = setup.whole.memo
    if ("histogram", expert) not in memo:
        total = torch.zeros(1 << BITS, dtype=torch.int64)
        for sources in setup.whole.sources():
            words = sources.delta(expert).abs_().flatten().view(torch.int32) >> (31 - BITS)
            total += torch.bincount(words, minlength=1 << BITS).cpu()
        memo["histogram", expert] = total.flip(0).cumsum(0).numpy()  # elements at or above each bin, from the top
    reached = memo["histogram", expert]
    keep = max(1, int(density * reached[-1]))
    word = len(reached) - 1 - int(np.searchsorted(reached, keep))
    return float(np.array([word << (31 - BITS)], dtype=np.int32).view(np.float32)[0])


def smallest_kept(setup: Setup, expert: int, keep: int) -> float:
    """The magnitude that the `keep` largest elements of |δ| reach."""
    place = _place(setup, keep)
    if place is not None:
        return float(setup.state["magnitudes"].numpy()[expert, place])
    if ("kept", expert, keep) not in setup.memo:
        make_room(setup.memo)
        magnitudes = setup.sources.delta(expert).abs_().flatten()
        setup.memo["kept", expert, keep] = float(magnitudes.kthvalue(magnitudes.numel() - keep + 1).values)
    return float(setup.memo["kept", expert, keep])


def kept_l1(setup: Setup, expert: int, keep: int) -> float:
    """The L1 norm of the elements that reach `smallest_kept`, ties included."""
    place = _place(setup, keep)
    if place is not None:
        return float(setup.state["kept_l1"].numpy()[expert, place])
    if ("l1", expert, keep) not in setup.memo:
        make_room(setup.memo)
        delta = setup.sources.delta(expert).abs_()
        below = delta < smallest_kept(setup, expert, keep)
        setup.memo["l1", expert, keep] = exact_l1(delta.masked_fill_(below, 0.0))
    return float(setup.memo["l1", expert, keep])


def above_l1(setup: Setup, expert: int, keep: int) -> float:
    """The L1 norm of the elements that are larger than `smallest_kept`."""
    place = _place(setup, keep)
    if place is not None:
        return float(setup.state["above_l1"].numpy()[expert, place])
    if ("above", expert, keep) not in setup.memo:
        make_room(setup.memo)
        delta = setup.sources.delta(expert).abs_()
        rest = delta <= smallest_kept(setup, expert, keep)
        setup.memo["above", expert, keep] = exact_l1(delta.masked_fill_(rest, 0.0))
    return float(setup.memo["above", expert, keep])


def fixed_point_unit(top: float) -> float:
    """A power of two 30 bits below the largest magnitude: sums of 2³³ such integers fit in int64."""
    return float(2.0 ** (int(np.frexp(np.float32(top))[1]) - 30))


def exact_l1(delta: Tensor, top: float | None = None) -> float:
    """The L1 norm as a fixed-point sum: integer addition gives the same bits in any order, device or thread count.

    `top` is the largest magnitude of what the sum is a part of, where it is one.
    """
    if top is None:
        top = float(delta.abs().max()) if delta.numel() else 0.0
    if top == 0.0 or not np.isfinite(top):
        return top
    unit = fixed_point_unit(top)
    return float((delta.abs().double() / unit).round().to(torch.int64).sum()) * unit


def make_room(memo: dict[Any, Any]) -> None:
    """What is found on demand hardly ever repeats: keep it small, oldest out first."""
    while len(memo) >= MEMO:
        del memo[next(iter(memo))]


def _place(setup: Setup, keep: int) -> int | None:
    if "counts" not in setup.state:
        return None
    known = setup.state["counts"].numpy()
    place = int(known.searchsorted(keep))
    return place if place < len(known) and known[place] == keep else None


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

    return torch.from_numpy(low), norm("left"), norm("right"), float(below[-1]) * unit  # ties at the end are kept


def sorted_values(flat: Tensor) -> NDArray[np.float32]:
    """Ascending, on the host; numpy sorts floats ten times faster than torch on a CPU."""
    if flat.device.type == "cpu":
        return np.sort(flat.numpy())
    return np.asarray(flat.sort().values.cpu().numpy(), dtype=np.float32)
