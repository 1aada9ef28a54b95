"""Linear merge, or model soup: the weighted mean of the models (Wortsman et al., arXiv 2203.05482)."""

from collections.abc import Mapping

from evomerge.errors import CandidateError
from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (Gene("weight", 0.0, 1.0, 1.0, base=0.0),)
SHARED: Mapping[str, float | bool | None] = {"normalize": True}
PER_EXPERT: Mapping[str, float | None] = {"weight": None}
BASE = ("weight",)
BASE_MODEL: BaseModel = "optional"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the mean depends on the weights alone."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """Σ wᵢθᵢ, divided by Σ wᵢ if `normalize` is on; the base has a weight like any other model."""
    weights = [float(values["weight"]) for values in genes.experts]
    base = float(genes.base["weight"])
    if genes.shared["normalize"]:
        total = base + sum(weights)
        if abs(total) < 1e-8:
            raise CandidateError("linear: the weights sum to 0 and normalize is on; make one of them positive")
        weights, base = [weight / total for weight in weights], base / total
    return LinComb(base, tuple(weights))
