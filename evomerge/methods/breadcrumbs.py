"""Model Breadcrumbs: cut the outliers and the smallest of each task vector (Davari & Belilovsky, arXiv 2312.06795).

`density` is the share kept and `gamma` that of the outliers cut, per tensor, as in mergekit.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Genes, Setup, State, _bands, _magnitudes
from evomerge.methods._task_vectors import merge, shared

GENES = _bands.GENES
SHARED = shared(normalize=False, rescale=False)
PER_EXPERT: Mapping[str, float | None] = _bands.WEIGHT_DENSITY_GAMMA
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Magnitudes and norms at both ends of every window."""
    return _magnitudes.prepare(setup.sources, _magnitudes.NEAR_BAND)


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ Σ wᵢ·window(δᵢ) (/ Σ wᵢ where `normalize`)."""
    return merge(setup, genes, _bands.window(genes), _bands.window_scale(genes), elect=False)
