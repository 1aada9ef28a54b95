"""The common part of the sparsifying methods: parameters, masks, rescaling and the vote."""

from collections.abc import Callable, Mapping
from typing import cast

from evomerge.kernels import Consensus, Divisor, Drop, Keep, LinComb, Mask, Sign, Trim, mask_keys, vote
from evomerge.methods import Genes, Setup
from evomerge.methods._drops import kept_l1 as dropped_l1
from evomerge.methods._magnitudes import kept_l1, magnitude_threshold, model_magnitude_threshold

WEIGHT_AND_DENSITY: Mapping[str, float | None] = {"weight": None, "density": 1.0}
WEIGHTED_SIGN = ("weighted", "unweighted")
DIVISOR = ("weights", "count")
TINY = 1e-7  # no rescaling below this L1 norm (as in mergekit)

MaskOf = Callable[[Setup, int, float], Mask]
ScaleOf = Callable[[Setup, int, float], float]


def shared_parameters(*, normalize: bool, rescale: bool) -> Mapping[str, float | bool | None]:
    """The parameters that mergekit shares between all models, with this method's defaults."""
    return {"normalize": normalize, "lambda": 1.0, "rescale": rescale, "int8_mask": False}


def trim(setup: Setup, expert: int, density: float) -> Mask:
    """Keep the max(1, ⌊density·n⌋) largest magnitudes and all ties at the threshold."""
    if density >= 1:
        return Keep()
    if density <= 0:
        return Trim(float("inf"))
    if setup.options.get("trim") == "model":
        return Trim(model_magnitude_threshold(setup, expert, density))
    return Trim(magnitude_threshold(setup, expert, trimmed_count(setup, density)))


def trimmed_count(setup: Setup, density: float) -> int:
    """The number of elements of a tensor that TIES keeps."""
    return max(1, int(density * setup.sources.shape.numel()))


def drop(setup: Setup, expert: int, density: float) -> Mask:
    """Keep each element with probability `density`; the recipe's seed determines which."""
    return Keep() if density >= 1 else Drop(max(density, 0.0))


def unscaled(setup: Setup, expert: int, density: float) -> float:
    """1: masked task vectors are not rescaled."""
    return 1.0


def trimmed_scale(setup: Setup, expert: int, density: float) -> float:
    """‖δ‖₁ / ‖trimmed δ‖₁, so that trimming preserves the L1 norm."""
    if not 0 < density < 1:
        return 1.0
    return ratio(float(setup.state["l1"][expert]), kept_l1(setup, expert, trimmed_count(setup, density)))


def dropped_scale(setup: Setup, expert: int, density: float) -> float:
    """‖δ‖₁ / ‖masked δ‖₁, so that dropping preserves the L1 norm."""
    if density >= 1:
        return 1.0
    return ratio(dropped_l1(setup, expert, 1.0), dropped_l1(setup, expert, max(density, 0.0)))


def inverse_density(setup: Setup, expert: int, density: float) -> float:
    """The DARE paper's rescaling, 1/density."""
    return 1.0 / density if 0 < density < 1 else 1.0


def rescaling(setup: Setup, genes: Genes) -> ScaleOf:
    """DARE's rescaling as the recipe's `rescale` and the option `rescale_by` select it."""
    if not genes.shared["rescale"]:
        return unscaled
    return dropped_scale if setup.options["rescale_by"] == "l1" else inverse_density


def ratio(before: float, after: float) -> float:
    """The L1 rescaling factor before / after; 1 if either norm vanishes."""
    return before / after if min(before, after) >= TINY else 1.0


def merge(setup: Setup, genes: Genes, mask_of: MaskOf, scale_of: ScaleOf, *, elect: bool) -> Consensus | LinComb:
    """The coefficients of a vote on masked and rescaled task vectors; `elect` turns the sign election on."""
    densities = [float(values["density"]) for values in genes.experts]
    masks = [mask_of(setup, i, density) for i, density in enumerate(densities)]
    if (combination := _without_vote(setup, genes, masks)) is not None:
        return combination
    keys = mask_keys(setup.seed, setup.sources.name, len(masks)) if any(isinstance(m, Drop) for m in masks) else ()
    return vote(
        masks,
        weights=[float(values["weight"]) for values in genes.experts],
        scales=[scale_of(setup, i, density) for i, density in enumerate(densities)],
        elect=elect,
        normalize=bool(genes.shared["normalize"]),
        lam=float(genes.shared["lambda"]),
        sign=cast(Sign, setup.options.get("sign", "weighted")),
        divisor=cast(Divisor, setup.options.get("divisor", "weights")),
        keys=keys,
    )


def _without_vote(setup: Setup, genes: Genes, masks: list[Mask]) -> LinComb | None:
    """The linear combination that equals the vote of at most one expert without a mask; None if a vote is needed.

    It is exact, while base + (expert − base) would be rounded twice.
    """
    weights = [float(values["weight"]) for values in genes.experts]
    used = [i for i, weight in enumerate(weights) if weight]
    if not used:
        return LinComb(1.0, tuple(0.0 for _ in weights))
    if len(used) != 1 or (len(weights) > 1 and setup.options.get("sign") == "unweighted"):
        return None
    if not isinstance(masks[used[0]], Keep):
        return None
    by_weight = bool(genes.shared["normalize"]) and setup.options.get("divisor", "weights") == "weights"
    share = float(genes.shared["lambda"]) * (1.0 if by_weight else weights[used[0]])
    return LinComb(1.0 - share, tuple(share if i in used else 0.0 for i in range(len(weights))))
