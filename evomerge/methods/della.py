"""DELLA: drop elements at random, small magnitudes more often, then elect a sign (Deep et al., arXiv 2406.11617).

As in mergekit an element is kept with probability density − epsilon + 2·epsilon·rank/(n − 1), ranked by magnitude in
its row, and what is left is rescaled to the L1 norm before (the paper divides by the probability). A row of one
element, where mergekit fails, is kept with probability `density`.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Genes, Setup, State, _ranks
from evomerge.methods._task_vectors import DIVISOR, WEIGHTED_SIGN, merge, shared

GENES = _ranks.GENES
SHARED = shared(normalize=True, rescale=True)
PER_EXPERT: Mapping[str, float | None] = _ranks.WEIGHT_DENSITY_EPSILON
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "distribution-only"
OPTIONS: Mapping[str, tuple[str, ...]] = {"sign": WEIGHTED_SIGN, "divisor": DIVISOR}


def prepare(setup: Setup) -> State:
    """A coin per element, and what masks of every probability leave of the L1 norms."""
    return _ranks.prepare(setup.sources, setup.seed)


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ Σ wᵢ mᵢ·rescale(mask(δᵢ)) with mᵢ the elected-sign mask (/ Σ wᵢmᵢ where `normalize`)."""
    return merge(setup, genes, _ranks.drop(genes), _ranks.drop_scale(genes), elect=True)
