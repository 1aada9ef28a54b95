"""SCE's selection: the elements on which the experts differ most, for any share, from one sort per tensor."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.kernels import Sources
from evomerge.methods import Setup, State
from evomerge.methods._magnitudes import STEPS, make_room, sorted_values

BLOCK = 1 << 20
LIMB = 30  # bits of half a square: a block's sums of halves stay below 2⁵³, where float64 adds integers exactly


def spread(delta: Callable[[int], Tensor], count: int) -> Tensor:
    """N times the variance of each element over the experts, in fp32; 0 to the bit where all are equal.

    No division and no fused arithmetic: a pass sees the same bits as the table that its threshold comes from.
    """
    first = delta(0)
    mean = first * 0.0
    for i in range(1, count):
        mean = mean + (delta(i) - first)
    mean = mean * (1.0 / count)
    total = mean * mean
    for i in range(1, count):
        gap = delta(i) - first - mean
        total = total + gap * gap
    return total


def prepare(sources: Sources) -> State:
    """`differing` int64: elements on which the experts differ; `thresholds` fp32 [1001]: the smallest `spread` among
    the k/1000 of them that differ most, the last one 0; `squares` float64 [experts, 1001]: Σδ² over what reaches it."""
    values = _spread(sources)
    ordered = sorted_values(values)
    differing = len(ordered) - int(np.searchsorted(ordered, np.float32(0.0), "right"))
    kept = np.array([selected(differing, k / STEPS) for k in range(STEPS)])
    thresholds = np.append(_reached(ordered, kept), np.float32(0.0))
    return {
        "differing": torch.tensor(differing),
        "thresholds": torch.from_numpy(thresholds),
        "squares": _squares(sources, values, thresholds),
    }


def selected(differing: int, share: float) -> int:
    """⌊share·differing⌋, multiplied in fp32 as in mergekit."""
    return int(np.float32(differing) * np.float32(share))


def selection(setup: Setup, share: float) -> tuple[float, list[float]]:
    """The `spread` from which elements are selected, ties included, and Σδ² over them for each expert."""
    share = min(max(share, 0.0), 1.0)
    step = round(share * STEPS)
    if step / STEPS == share:
        return float(setup.state["thresholds"][step]), setup.state["squares"][:, step].tolist()
    if share not in setup.memo:
        make_room(setup.memo)
        values = _spread(setup.sources)
        kept = np.array([selected(int(setup.state["differing"]), share)])
        threshold = _reached(sorted_values(values), kept)
        setup.memo[share] = float(threshold[0]), _squares(setup.sources, values, threshold)[:, 0].tolist()
    found: tuple[float, list[float]] = setup.memo[share]
    return found


def _spread(sources: Sources) -> Tensor:
    return spread(lambda i: sources.delta(i).flatten(), len(sources))


def _reached(ordered: NDArray[np.float32], kept: NDArray[np.int64]) -> NDArray[np.float32]:
    """The value that so many elements reach, infinity for none of them."""
    return np.where(kept > 0, ordered[len(ordered) - np.maximum(kept, 1)], np.float32(np.inf)).astype(np.float32)


def _squares(sources: Sources, values: Tensor, thresholds: NDArray[np.float32]) -> Tensor:
    """Σδ² over the elements that reach each of the descending thresholds, float64 [experts, thresholds]."""
    places = torch.bucketize(-values, torch.from_numpy(-thresholds).to(values.device))  # the first one that it reaches
    return torch.stack([_sums(sources.delta(i).flatten(), places, len(thresholds)) for i in range(len(sources))])


def _sums(delta: Tensor, places: Tensor, count: int) -> Tensor:
    """Running sums of squares by place, in fixed point 60 bits below the largest: the same bits in any order."""
    top = float(delta.abs().max()) if delta.numel() else 0.0
    if top == 0.0 or not np.isfinite(top):
        return torch.full((count,), top, dtype=torch.float64)
    unit = float(2.0 ** (2 * (int(np.frexp(np.float32(top))[1]) - LIMB)))
    halves = torch.zeros(2, count + 1, dtype=torch.int64)
    for first in range(0, delta.numel(), BLOCK):
        part = slice(first, first + BLOCK)
        whole = (delta[part].double().square() / unit).round().long()
        for half, bits in zip(halves, (whole >> LIMB, whole & ((1 << LIMB) - 1)), strict=True):
            half += torch.bincount(places[part], bits.double(), minlength=count + 1).long().cpu()
    high, low = halves.cumsum(1)[:, :count].double()
    total: Tensor = high * float(1 << LIMB) + low
    return total * unit
