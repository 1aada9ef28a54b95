"""RAM+: RAM that compensates for averaging by scaling up changes by a single expert (arXiv 2601.13572).

As in mergekit, the ratio of shared to unshared elements is that of each tensor (in the paper: of the whole model). With
an epsilon of 0 and an expert that changed nothing, the ratio is 0, where mergekit divides 0 by 0.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _sharing

GENES = (
    Gene("r", 0.0, 0.5, 0.1, per="group"),
    Gene("alpha", 0.0, 1.0, 0.2, per="group"),
    _sharing.EPSILON,
)
SHARED: Mapping[str, float | bool | None] = {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """The number of elements that each expert changed, alone and with others, for every epsilon."""
    return _sharing.prepare(setup.sources)


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + Σ zᵢ/c as in RAM, times 1 + r·min(ρᵢ, alpha) where c = 1, with ρᵢ = sharedᵢ / max(aloneᵢ, ε)."""
    r, alpha, epsilon = (float(genes.shared[name]) for name in ("r", "alpha", "epsilon"))
    ratios = [_ratio(both, alone, epsilon) for both, alone in _sharing.shared_and_alone(setup, epsilon)]
    return _sharing.ram_coefficients(epsilon, [1.0 + r * min(ratio, alpha) for ratio in ratios])


def _ratio(both: int, alone: int, epsilon: float) -> float:
    floor = max(float(alone), epsilon)
    return both / floor if floor > 0 else float("inf") if both else 0.0
