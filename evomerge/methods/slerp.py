"""Spherical interpolation between two models, tensor by tensor (Shoemake 1985; for weights as in mergekit)."""

import math
from collections.abc import Mapping

from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State, _gram

GENES = (Gene("t", 0.0, 1.0, 0.5, per="group", base=0.0),)
SHARED: Mapping[str, float | bool | None] = {"t": None}
PER_EXPERT: Mapping[str, float | None] = {}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 1)
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}

PARALLEL = 0.9995  # |cosine| above which the interpolation is linear


def prepare(setup: Setup) -> State:
    """The inner products of the two whole tensors."""
    return _gram.of_weights(setup.sources)


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """sin((1−t)Θ)/sinΘ · θ₀ + sin(tΘ)/sinΘ · θ₁; t = 0 is the base. A zero tensor has cosine 0."""
    t = float(genes.shared["t"])
    cosine = float(_gram.cosines(_gram.gram(setup), 1e-8)[0, 1])
    if abs(cosine) > PARALLEL or t in (0.0, 1.0):  # exact end points: sin(t·Θ)/sinΘ has rounding errors
        return LinComb(1.0 - t, (t,))
    angle = math.acos(cosine)
    return LinComb(math.sin((1 - t) * angle) / math.sin(angle), (math.sin(t * angle) / math.sin(angle),))
