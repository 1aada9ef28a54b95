"""ExPO: go on from a weaker to a stronger model and beyond it (Zheng et al., ACL 2025, arXiv 2404.16792).

The base is the supervised model θ₀, the expert the aligned one θ₁. The authors find 0.3 or 0.5 good.
"""

from collections.abc import Mapping

from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (Gene("alpha", -1.0, 1.0, 0.3, per="group", base=-1.0),)
SHARED: Mapping[str, float | bool | None] = {"alpha": None}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1)
EXACTNESS: Exactness = "frozen-linear"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the line is given by the two models."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """θ₁ + α(θ₁ − θ₀): 0 is the expert, below it lies the way back to the base at −1."""
    alpha = float(genes.shared["alpha"])
    return LinComb(-alpha, (1.0 + alpha,))
