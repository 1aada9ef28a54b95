"""RAM: average task vectors only where several experts changed an element (Behavior Knowledge Merge, arXiv 2601.13572).

As in mergekit: changes up to `epsilon` are dropped, and a change by a single expert is kept in full.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Genes, Setup, State, _sharing

GENES = (_sharing.EPSILON,)
SHARED: Mapping[str, float | bool | None] = {"epsilon": 1e-5}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the rule needs only the element itself."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + Σ zᵢ/c with zᵢ = δᵢ·[|δᵢ| > ε] and c the number of experts with zᵢ ≠ 0."""
    return _sharing.ram_coefficients(float(genes.shared["epsilon"]), [1.0] * len(setup.sources))
