"""DELLA: drop elements at random, small magnitudes more often, then elect a sign (Deep et al., arXiv 2406.11617).

As in mergekit, an element is kept with probability density − epsilon + 2·epsilon·rank/(n − 1), where the rank is that
of its magnitude in its row, and rescaling restores the L1 norm (the paper divides by the probability). The only element
of a row is kept with probability `density`; mergekit fails on such rows.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Genes, Setup, State, _ranks
from evomerge.methods._task_vectors import DIVISOR, WEIGHTED_SIGN, merge, shared_parameters

GENES = _ranks.GENES
SHARED = shared_parameters(normalize=True, rescale=True)
PER_EXPERT: Mapping[str, float | None] = _ranks.WEIGHT_DENSITY_EPSILON
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "distribution-only"
OPTIONS: Mapping[str, tuple[str, ...]] = {"sign": WEIGHTED_SIGN, "divisor": DIVISOR}


def prepare(setup: Setup) -> State:
    """One coin per element, and the L1 norms under masks of every keep probability."""
    return _ranks.prepare(setup.sources, setup.seed)


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ Σ wᵢ mᵢ·rescale(mask(δᵢ)) with mᵢ the elected-sign mask (/ Σ wᵢmᵢ if `normalize`)."""
    return merge(setup, genes, _ranks.drop(genes), _ranks.drop_scale(genes), elect=True)
