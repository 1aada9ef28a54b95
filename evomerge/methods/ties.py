"""TIES: trim, elect a sign, average what agrees (Yadav et al., arXiv 2306.01708), with mergekit's conventions.

The paper's own variants are options: `sign: unweighted` elects on unweighted task vectors, `divisor: count` averages
over the number of agreeing experts, `trim: model` takes one threshold over the whole flattened model.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb, Sources
from evomerge.methods import Exactness, Gene, Genes
from evomerge.methods._task_vectors import DIVISOR, WEIGHTED_SIGN, TaskVectors, merge

GENES = (
    Gene("weight", 0.0, 1.0, 1.0, base=0.0),
    Gene("density", 0.05, 1.0, 0.2),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
SHARED: Mapping[str, float | bool | None] = {
    "normalize": True,
    "lambda": 1.0,
    "rescale": False,
    "int8_mask": False,
}
PER_EXPERT: Mapping[str, float | None] = {"weight": None, "density": 1.0}
BASE: tuple[str, ...] = ()
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "trim": ("tensor", "model"),
    "sign": WEIGHTED_SIGN,
    "divisor": DIVISOR,
}


def prepare(sources: Sources, options: Mapping[str, str], seed: int) -> TaskVectors:
    """Magnitude thresholds, found on demand and kept for the run."""
    return TaskVectors(sources, options, seed)


def coefficients(state: TaskVectors, genes: Genes) -> Consensus | LinComb:
    """Trim to `density`, elect Σ wᵢδ̂ᵢ's sign, average by Σ wᵢ over those that agree, scale by λ."""
    return merge(state, genes, state.trim, elect=True, rescale="l1" if genes.shared["rescale"] else "none")
