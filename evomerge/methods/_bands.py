"""The window of magnitudes that Model Breadcrumbs keeps: it drops the outliers and the many small elements."""

from evomerge.kernels import Band, Keep, Mask
from evomerge.methods import Gene, Genes, Setup
from evomerge.methods._magnitudes import DENSITY_DECIMALS, above_l1, kept_l1, magnitude_threshold
from evomerge.methods._task_vectors import MaskOf, ScaleOf, ratio, unscaled

GENES = (
    Gene("weight", 0.0, 1.5, 0.3, base=0.0),
    Gene("density", 0.1, 1.0, 0.9, decimals=DENSITY_DECIMALS, slope=False),
    Gene("gamma", 0.0, 0.1, 0.01, decimals=DENSITY_DECIMALS, slope=False),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
WEIGHT_DENSITY_GAMMA = {"weight": None, "density": 1.0, "gamma": 0.01}


def ends(size: int, density: float, gamma: float) -> tuple[int, int] | None:
    """The ranks, counted from the largest magnitude, of the window's lower and upper end; None for an empty window.

    As in mergekit, the window is the positions [lo, lo + ⌊density·n⌋) of the magnitudes in ascending order, where
    lo = max(0, n − ⌊density·n⌋ − ⌊gamma·n⌋). With density + gamma > 1 it starts at the smallest magnitude; with
    gamma < 0 it is cut off at the largest.
    """
    keep, top = int(density * size), int(gamma * size)
    low = max(0, size - keep - top)
    high = min(size, low + keep) - 1
    return (size - low, size - high) if 0 <= low <= high else None


def window(genes: Genes) -> MaskOf:
    """Each expert's window as a mask; magnitudes equal to an end are kept, and density ≥ 1 keeps every element."""

    def mask(setup: Setup, expert: int, density: float) -> Mask:
        if density >= 1:
            return Keep()
        if (ranks := ends(setup.sources.shape.numel(), density, _gamma(genes, expert))) is None:
            return Band(float("inf"), float("inf"))
        low, high = (magnitude_threshold(setup, expert, rank) for rank in ranks)
        return Band(low, high)

    return mask


def window_scale(genes: Genes) -> ScaleOf:
    """‖δ‖₁ / ‖windowed δ‖₁ if `rescale` is on, so that the L1 norm stays the same; else 1."""

    def scale(setup: Setup, expert: int, density: float) -> float:
        ranks = ends(setup.sources.shape.numel(), density, _gamma(genes, expert))
        if density >= 1 or ranks is None:
            return 1.0
        inside = kept_l1(setup, expert, ranks[0]) - above_l1(setup, expert, ranks[1])
        return ratio(float(setup.state["l1"][expert]), inside)

    return scale if genes.shared["rescale"] else unscaled


def _gamma(genes: Genes, expert: int) -> float:
    return float(genes.experts[expert]["gamma"])
