"""LiNeS: task vectors scaled by depth, less in early layers and more in late ones (Wang et al., arXiv 2410.17146).

The scaling applies to the sum of the task vectors. The paper sets α = 1/N and searches β from 0.1 to 1; for one expert
it sets α + β = 1.
"""

from collections.abc import Mapping

from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (
    Gene("alpha", 0.0, 1.0, 0.3, per="group", base=0.0),
    Gene("beta", 0.0, 1.5, 0.5, per="group", base=0.0),
)
SHARED: Mapping[str, float | bool | None] = {"alpha": None, "beta": None}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "frozen-linear"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: the scale depends on the depth alone."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """θ₀ + (α + β·l/(L−1)) Σ δᵢ in layer l = 0 … L−1; outside the layers, also after the last one, the scale is α."""
    scale = float(genes.shared["alpha"]) + float(genes.shared["beta"]) * (setup.depth or 0.0)
    count = len(genes.experts)
    return LinComb(1.0 - count * scale, (scale,) * count)
