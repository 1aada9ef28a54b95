"""TIES: trim, elect a sign, average the agreeing elements (Yadav et al., arXiv 2306.01708), as in mergekit.

The paper's own variants are options: `sign: unweighted` elects signs on unweighted task vectors, `divisor: count`
averages over the number of agreeing experts, and `trim: model` uses one threshold for the whole flattened model.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _magnitudes
from evomerge.methods._task_vectors import (
    DIVISOR,
    WEIGHT_AND_DENSITY,
    WEIGHTED_SIGN,
    merge,
    shared_parameters,
    trim,
    trimmed_scale,
    unscaled,
)

GENES = (
    Gene("weight", 0.0, 1.0, 1.0, base=0.0),
    Gene("density", 0.05, 1.0, 0.2, decimals=_magnitudes.DENSITY_DECIMALS, slope=False),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
SHARED = shared_parameters(normalize=True, rescale=False)
PER_EXPERT = WEIGHT_AND_DENSITY
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "trim": ("tensor", "model"),
    "sign": WEIGHTED_SIGN,
    "divisor": DIVISOR,
}


def prepare(setup: Setup) -> State:
    """Magnitude thresholds and kept norms for every density."""
    state = _magnitudes.prepare(setup.sources)
    return state | _magnitudes.prepare_model(setup) if setup.options["trim"] == "model" else state


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """Trim to `density`, elect Σ wᵢδ̂ᵢ's sign, average by Σ wᵢ over the agreeing experts, scale by λ."""
    return merge(setup, genes, trim, trimmed_scale if genes.shared["rescale"] else unscaled, elect=True)
