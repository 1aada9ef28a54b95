"""The window of magnitudes that Model Breadcrumbs keeps: neither the outliers nor the many small ones."""

from evomerge.kernels import Band, Keep, Mask
from evomerge.methods import Gene, Genes, Setup
from evomerge.methods._magnitudes import DENSITY_DECIMALS, above_l1, kept_l1, smallest_kept
from evomerge.methods._task_vectors import MaskOf, ScaleOf, ratio, unscaled

GENES = (
    Gene("weight", 0.0, 1.5, 0.3, base=0.0),
    Gene("density", 0.1, 1.0, 0.9, decimals=DENSITY_DECIMALS),
    Gene("gamma", 0.0, 0.1, 0.01, decimals=DENSITY_DECIMALS),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
WEIGHT_DENSITY_GAMMA = {"weight": None, "density": 1.0, "gamma": 0.01}


def ends(size: int, density: float, gamma: float) -> tuple[int, int] | None:
    """How many of the largest magnitudes reach the window's lower and its upper end; None where it keeps nothing.

    Of the magnitudes in ascending order the positions [lo, lo + ⌊density·n⌋) are kept, lo = max(0, n − ⌊density·n⌋ −
    ⌊gamma·n⌋), as in mergekit: where density + gamma > 1 those are the smallest, and gamma < 0 runs off the top.
    """
    keep, top = int(density * size), int(gamma * size)
    low = max(0, size - keep - top)
    high = min(size, low + keep) - 1
    return (size - low, size - high) if 0 <= low <= high else None


def window(genes: Genes) -> MaskOf:
    """Each expert's window; magnitudes equal to its ends are all kept, and density ≥ 1 keeps everything."""

    def mask(setup: Setup, expert: int, density: float) -> Mask:
        if density >= 1:
            return Keep()
        if (found := ends(setup.sources.shape.numel(), density, _gamma(genes, expert))) is None:
            return Band(float("inf"), float("inf"))
        low, high = (smallest_kept(setup, expert, kept) for kept in found)
        return Band(low, high)

    return mask


def window_scale(genes: Genes) -> ScaleOf:
    """‖δ‖₁ / ‖windowed δ‖₁ where `rescale`, so that cutting keeps the L1 norm."""

    def scale(setup: Setup, expert: int, density: float) -> float:
        found = ends(setup.sources.shape.numel(), density, _gamma(genes, expert))
        if density >= 1 or found is None:
            return 1.0
        inside = kept_l1(setup, expert, found[0]) - above_l1(setup, expert, found[1])
        return ratio(float(setup.state["l1"][expert]), inside)

    return scale if genes.shared["rescale"] else unscaled


def _gamma(genes: Genes, expert: int) -> float:
    return float(genes.experts[expert]["gamma"])
