"""Model Breadcrumbs: drop the largest and the smallest elements of each task vector.

Davari & Belilovsky, arXiv 2312.06795. As in mergekit, `density` is the fraction of kept elements per tensor and `gamma`
the fraction of dropped outliers.
"""

from collections.abc import Mapping

from evomerge.kernels import Consensus, LinComb
from evomerge.methods import BaseModel, Exactness, Genes, Setup, State, _bands, _magnitudes
from evomerge.methods._task_vectors import merge, shared_parameters

GENES = _bands.GENES
SHARED = shared_parameters(normalize=False, rescale=False)
PER_EXPERT: Mapping[str, float | None] = _bands.WEIGHT_DENSITY_GAMMA
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Magnitude thresholds and norms at both ends of every window."""
    return _magnitudes.prepare(setup.sources, _magnitudes.BAND_OFFSETS)


def coefficients(setup: Setup, genes: Genes) -> Consensus | LinComb:
    """θ₀ + λ Σ wᵢ·window(δᵢ) (/ Σ wᵢ if `normalize`)."""
    return merge(setup, genes, _bands.window(genes), _bands.window_scale(genes), elect=False)
