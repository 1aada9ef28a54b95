"""DARE followed by TIES' sign election: drop random elements, rescale, vote (arXiv 2311.03099, 2306.01708).

As in mergekit, rescaling restores the L1 norm; the paper's factor 1/density is the option `rescale_by: inv_density`.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _drops
from evomerge.methods._magnitudes import DENSITY_DECIMALS
from evomerge.methods._task_vectors import (
    DIVISOR,
    WEIGHT_AND_DENSITY,
    WEIGHTED_SIGN,
    drop,
    merge,
    rescaling,
    shared_parameters,
)

GENES = (
    Gene("weight", 0.0, 1.5, 0.5, base=0.0),
    Gene("density", 0.1, 1.0, 0.5, decimals=DENSITY_DECIMALS, slope=False),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
SHARED = shared_parameters(normalize=False, rescale=True)
PER_EXPERT = WEIGHT_AND_DENSITY
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "distribution-only"
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "rescale_by": ("l1", "inv_density"),
    "sign": WEIGHTED_SIGN,
    "divisor": DIVISOR,
}


def prepare(setup: Setup) -> State:
    """The L1 norms under masks of every density."""
    return _drops.prepare(setup.sources, setup.seed)


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ Σ wᵢ mᵢ·rescale(mask(δᵢ)) with mᵢ the elected-sign mask (/ Σ wᵢmᵢ if `normalize`)."""
    return merge(setup, genes, drop, rescaling(setup, genes), elect=True)
