"""DARE before TIES' sign election: drop random elements, rescale, keep what agrees (arXiv 2311.03099, 2306.01708).

mergekit rescales to the L1 norm before dropping; the paper's 1/density is the option `rescale_by: inv_density`.
"""

from collections.abc import Mapping
from typing import Literal, cast

from evomerge.kernels import Consensus, LinComb, Sources
from evomerge.methods import Exactness, Gene, Genes
from evomerge.methods._task_vectors import DIVISOR, WEIGHT_AND_DENSITY, WEIGHTED_SIGN, TaskVectors, merge, shared

GENES = (
    Gene("weight", 0.0, 1.5, 0.5, base=0.0),
    Gene("density", 0.1, 1.0, 0.5),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
SHARED = shared(normalize=False, rescale=True)
PER_EXPERT = WEIGHT_AND_DENSITY
BASE: tuple[str, ...] = ()
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "distribution-only"
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "rescale_by": ("l1", "inv_density"),
    "sign": WEIGHTED_SIGN,
    "divisor": DIVISOR,
}


def prepare(sources: Sources, options: Mapping[str, str], seed: int) -> TaskVectors:
    """Rescaling factors, found on demand and kept for the run."""
    return TaskVectors(sources, options, seed)


def coefficients(state: TaskVectors, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ Σ wᵢ mᵢ·rescale(mask(δᵢ)) with mᵢ the elected-sign mask (/ Σ wᵢmᵢ where `normalize`)."""
    by = cast(Literal["l1", "inv_density"], state.options["rescale_by"])
    return merge(state, genes, state.drop, elect=True, rescale=by if genes.shared["rescale"] else "none")
