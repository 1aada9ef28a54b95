"""DARE-TIES in Core Space: drop random elements of the adapters' core matrices, rescale and elect signs.

Panariello et al., arXiv 2509.17786. The rescaling is 1/density as in the DARE paper (arXiv 2311.03099), and the vote is
that of `dare_ties`. There is no variant without sign election: dropping would only add noise to a plain sum.
"""

from collections.abc import Mapping

from evomerge.kernels import LinComb, LowRank
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _core
from evomerge.methods._magnitudes import DENSITY_DECIMALS
from evomerge.methods._task_vectors import DIVISOR, WEIGHT_AND_DENSITY, WEIGHTED_SIGN, drop, inverse_density, unscaled

GENES = (
    Gene("weight", 0.0, 1.5, 0.5, base=0.0),
    Gene("density", 0.1, 1.0, 0.5, decimals=DENSITY_DECIMALS, slope=False),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
SHARED: Mapping[str, float | bool | None] = {"normalize": False, "lambda": 1.0, "rescale": True}
PER_EXPERT = WEIGHT_AND_DENSITY
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
BANKS_DEPEND_ON_EXPERTS = True
OPTIONS: Mapping[str, tuple[str, ...]] = {"sign": WEIGHTED_SIGN, "divisor": DIVISOR}
ADAPTERS_ONLY = True


def prepare(setup: Setup) -> State:
    """The bases and the cores; the random masks are drawn per candidate, from the seed."""
    return _core.prepare(setup)


def coefficients(setup: Setup, genes: Genes) -> LinComb | LowRank:
    """θ₀ + λ·U·(Σ wᵢ mᵢ·mask(Mᵢ)/densityᵢ)·V with mᵢ the elected-sign mask (/ Σ wᵢmᵢ if `normalize`)."""
    return _core.vote(setup, genes, drop, inverse_density if genes.shared["rescale"] else unscaled)
