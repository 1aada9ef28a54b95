"""Task arithmetic: add weighted task vectors to the base (Ilharco et al., arXiv 2212.04089)."""

from collections.abc import Mapping

from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (Gene("weight", 0.0, 1.5, 0.3, base=0.0), Gene("lambda", 0.0, 2.0, 1.0, per="group"))
SHARED: Mapping[str, float | bool | None] = {
    "normalize": False,
    "lambda": 1.0,
    "rescale": False,
    "int8_mask": False,
}
PER_EXPERT: Mapping[str, float | None] = {
    "weight": None,
    "density": 1.0,  # mergekit accepts and ignores it
}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the sum depends on the weights alone."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """θ₀ + λ Σ wᵢδᵢ (/ Σ wᵢ if `normalize`), as a combination of weights (1 − Σc)·θ₀ + Σ cᵢθᵢ."""
    weights = [float(values["weight"]) for values in genes.experts]
    total = sum(weights) if genes.shared["normalize"] else 1.0
    scale = float(genes.shared["lambda"]) / (total if abs(total) >= 1e-8 else 1.0)
    scaled = tuple(scale * weight for weight in weights)
    return LinComb(1.0 - sum(scaled), scaled)
