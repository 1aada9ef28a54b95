"""ExPO: extrapolate from a weaker model through a stronger one (Zheng et al., ACL 2025, arXiv 2404.16792).

The base is the supervised model θ₀ and the expert the aligned model θ₁. The authors recommend an alpha of 0.3 or 0.5.
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
    """Nothing: the coefficients depend on alpha alone."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """θ₁ + α(θ₁ − θ₀); α = 0 is the expert and α = −1 the base."""
    alpha = float(genes.shared["alpha"])
    return LinComb(-alpha, (1.0 + alpha,))
