"""TIES in Core Space: trim, elect and average the adapters' small core matrices (Panariello et al., arXiv 2509.17786).

The vote is that of `ties`, in which the weights count. The authors' unweighted vote is `sign: unweighted` with
`divisor: count`; their code keeps one element more than ⌊density·n⌋.
"""

from collections.abc import Mapping

from evomerge.kernels import LinComb, LowRank
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _core
from evomerge.methods._magnitudes import DENSITY_DECIMALS
from evomerge.methods._task_vectors import DIVISOR, WEIGHT_AND_DENSITY, WEIGHTED_SIGN, unscaled

GENES = (
    Gene("weight", 0.0, 1.0, 1.0, base=0.0),
    Gene("density", 0.05, 1.0, 0.2, decimals=DENSITY_DECIMALS, slope=False),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
SHARED: Mapping[str, float | bool | None] = {"normalize": True, "lambda": 1.0}
PER_EXPERT = WEIGHT_AND_DENSITY
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1000)
EXACTNESS: Exactness = "native"
BANKS_DEPEND_ON_EXPERTS = True
OPTIONS: Mapping[str, tuple[str, ...]] = {"sign": WEIGHTED_SIGN, "divisor": DIVISOR}
ADAPTERS_ONLY = True


def prepare(setup: Setup) -> State:
    """The bases, the cores and their magnitude thresholds."""
    state = _core.prepare(setup)
    return state | _core.thresholds(state)


def coefficients(setup: Setup, genes: Genes) -> LinComb | LowRank:
    """θ₀ + λ·U·TIES(M₁ … M_N)·V, with the ⌊density·n⌋ largest of a core's n elements kept."""
    return _core.vote(setup, genes, _core.trim, unscaled)
