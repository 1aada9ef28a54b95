"""What the sparsifying methods share: thresholds, mask scales and the assembly of a `Consensus`."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from evomerge.kernels import Consensus, Drop, Keep, LinComb, Mask, Sources, Trim
from evomerge.kernels.consensus import apply_mask
from evomerge.kernels.masks import mask_key
from evomerge.methods import Genes

WEIGHT_AND_DENSITY: Mapping[str, float | None] = {"weight": None, "density": 1.0}
WEIGHTED_SIGN = ("weighted", "unweighted")
DIVISOR = ("weights", "count")
CACHED = 64
TINY = 1e-7  # below this L1 norm nothing is rescaled (mergekit's guard)


def shared(*, normalize: bool, rescale: bool) -> Mapping[str, float | bool | None]:
    """mergekit's parameters for all models at once, with a method's own defaults."""
    return {"normalize": normalize, "lambda": 1.0, "rescale": rescale, "int8_mask": False}


class TaskVectors:
    """Order statistics and L1 norms of one tensor's task vectors, each computed once and kept."""

    def __init__(self, sources: Sources, options: Mapping[str, str], seed: int) -> None:
        self.sources = sources
        self.options = options
        self.seed = seed
        self._thresholds: dict[tuple[int, int], float] = {}
        self._scales: dict[tuple[int, Mask], float] = {}

    def trim(self, expert: int, density: float) -> Mask:
        """Keep the ⌊density·n⌋ largest magnitudes, at least one; ties at the threshold are all kept."""
        if density >= 1:
            return Keep()
        if density <= 0:
            return Trim(float("inf"))
        if self.options.get("trim") == "model":
            return Trim(self.sources.model_threshold(expert, density))
        size = self.sources.base.numel()
        return Trim(self._threshold(expert, max(1, int(density * size))))

    def drop(self, expert: int, density: float) -> Mask:
        """Keep each element with probability `density`, by the recipe's seed."""
        return Keep() if density >= 1 else Drop(mask_key(self.seed, self.sources.name, expert), max(density, 0.0))

    def l1_scale(self, expert: int, mask: Mask) -> float:
        """‖δ‖₁ / ‖masked δ‖₁, so that masking keeps the L1 norm; 1 where either norm vanishes."""
        if isinstance(mask, Keep):
            return 1.0
        if (expert, mask) not in self._scales:
            _make_room(self._scales)
            delta = self.sources.delta(expert)
            before = exact_l1(delta)
            after = exact_l1(apply_mask(delta, mask))
            self._scales[expert, mask] = before / after if min(before, after) >= TINY else 1.0
        return self._scales[expert, mask]

    def _threshold(self, expert: int, keep: int) -> float:
        if (expert, keep) not in self._thresholds:
            _make_room(self._thresholds)
            magnitudes = self.sources.delta(expert).abs_().flatten()
            place = magnitudes.numel() - keep + 1
            self._thresholds[expert, keep] = float(magnitudes.kthvalue(place).values)
        return self._thresholds[expert, keep]


def _make_room(cache: dict[Any, float]) -> None:
    """Searched densities hardly ever repeat: keep the cache small, oldest out first."""
    while len(cache) >= CACHED:
        del cache[next(iter(cache))]


def exact_l1(delta: Tensor) -> float:
    """The L1 norm as a fixed-point sum: integer addition gives the same bits in any order, device or thread count."""
    if delta.numel() == 0:
        return 0.0
    top = float(delta.abs().max())
    if top == 0.0 or top != top or top == float("inf"):
        return top
    exponent = int(torch.frexp(torch.tensor(top)).exponent)
    unit = 2.0 ** (exponent - 30)  # 30 bits below the largest element; 2³³ elements fit in int64
    return float((delta.abs().double() / unit).round().to(torch.int64).sum()) * unit


def merge(
    state: TaskVectors,
    genes: Genes,
    mask: Callable[[int, float], Mask],
    *,
    elect: bool,
    rescale: Literal["l1", "inv_density", "none"],
) -> Consensus | LinComb:
    """The consensus of the masked task vectors under one rescaling rule."""
    if (alone := _alone(state, genes, mask)) is not None:
        return alone
    densities = [float(values["density"]) for values in genes.experts]
    masks = tuple(mask(i, density) for i, density in enumerate(densities))
    scales = tuple(_scale(state, i, m, densities[i], rescale) for i, m in enumerate(masks))
    return Consensus(
        weights=tuple(float(values["weight"]) for values in genes.experts),
        masks=masks,
        scales=scales,
        elect=elect,
        normalize=bool(genes.shared["normalize"]),
        lam=float(genes.shared["lambda"]),
        sign=cast(Literal["weighted", "unweighted"], state.options.get("sign", "weighted")),
        divisor=cast(Literal["weights", "count"], state.options.get("divisor", "weights")),
    )


def _alone(state: TaskVectors, genes: Genes, mask: Callable[[int, float], Mask]) -> LinComb | None:
    """One expert with a weight and nothing masked: two models combined, exact where base + (expert − base) rounds."""
    weights = [float(values["weight"]) for values in genes.experts]
    used = [i for i, weight in enumerate(weights) if weight]
    if len(used) != 1 or (len(weights) > 1 and state.options.get("sign") == "unweighted"):
        return None
    if not isinstance(mask(used[0], float(genes.experts[used[0]]["density"])), Keep):
        return None
    weight = weights[used[0]]
    by_weight = bool(genes.shared["normalize"]) and state.options.get("divisor", "weights") == "weights"
    share = float(genes.shared["lambda"]) * (1.0 if by_weight else weight)
    return LinComb(1.0 - share, tuple(share if i in used else 0.0 for i in range(len(weights))))


def _scale(state: TaskVectors, expert: int, mask: Mask, density: float, rescale: str) -> float:
    if rescale == "l1":
        return state.l1_scale(expert, mask)
    if rescale == "inv_density" and not isinstance(mask, Keep):
        return 1.0 / density if density > 0 else 1.0
    return 1.0
