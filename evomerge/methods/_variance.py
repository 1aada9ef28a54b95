"""SCE's selection of the elements on which the experts differ most, for any share, from one sort per tensor."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.kernels import Sources
from evomerge.methods import Setup, State
from evomerge.methods._magnitudes import STEPS, evict_oldest, sorted_values

BLOCK = 1 << 20
LIMB = 30  # bits of each half of a fixed-point square: sums over a block stay below 2⁵³, exact in float64


def scaled_variance(delta: Callable[[int], Tensor], count: int) -> Tensor:
    """N times the variance of each element over the experts, in fp32; exactly 0 if all experts are equal.

    It uses no division and no fused arithmetic, so that a pass computes the same bits as the table of thresholds.
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
    """`differing` int64: the number of elements on which the experts differ; `thresholds` fp32 [1001]: the smallest
    `scaled_variance` among the k/1000 of them that differ most, 0 in the last column; `squares` float64 [experts,
    1001]: Σδ² over the elements that reach the threshold."""
    values = _scaled_variance(sources)
    ordered = sorted_values(values)
    differing = len(ordered) - int(np.searchsorted(ordered, np.float32(0.0), "right"))
    kept = np.array([selected_count(differing, k / STEPS) for k in range(STEPS)])
    thresholds = np.append(_thresholds(ordered, kept), np.float32(0.0))
    return {
        "differing": torch.tensor(differing),
        "thresholds": torch.from_numpy(thresholds),
        "squares": _squares(sources, values, thresholds),
    }


def selected_count(differing: int, share: float) -> int:
    """⌊share·differing⌋ with an fp32 product, as in mergekit."""
    return int(np.float32(differing) * np.float32(share))


def selection(setup: Setup, share: float) -> tuple[float, list[float]]:
    """The `scaled_variance` from which elements are selected, and Σδ² over the selected elements for each expert."""
    share = min(max(share, 0.0), 1.0)
    step = round(share * STEPS)
    if step / STEPS == share:
        return float(setup.state["thresholds"][step]), setup.state["squares"][:, step].tolist()
    if share not in setup.memo:
        evict_oldest(setup.memo)
        values = _scaled_variance(setup.sources)
        kept = np.array([selected_count(int(setup.state["differing"]), share)])
        threshold = _thresholds(sorted_values(values), kept)
        setup.memo[share] = float(threshold[0]), _squares(setup.sources, values, threshold)[:, 0].tolist()
    found: tuple[float, list[float]] = setup.memo[share]
    return found


def _scaled_variance(sources: Sources) -> Tensor:
    return scaled_variance(lambda i: sources.delta(i).flatten(), len(sources))


def _thresholds(ordered: NDArray[np.float32], kept: NDArray[np.int64]) -> NDArray[np.float32]:
    """The value that each number of elements in `kept` reaches; infinity for 0."""
    return np.where(kept > 0, ordered[len(ordered) - np.maximum(kept, 1)], np.float32(np.inf)).astype(np.float32)


def _squares(sources: Sources, values: Tensor, thresholds: NDArray[np.float32]) -> Tensor:
    """Σδ² over the elements that reach each of the descending thresholds, float64 [experts, thresholds]."""
    places = torch.bucketize(
        -values, torch.from_numpy(-thresholds).to(values.device)
    )  # the first threshold that the element reaches
    return torch.stack([_sums(sources.delta(i).flatten(), places, len(thresholds)) for i in range(len(sources))])


def _sums(delta: Tensor, places: Tensor, count: int) -> Tensor:
    """Cumulative sums of squares by place, in fixed point with 60 bits: equal bits in any order of summation."""
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
