"""Passthrough: each slice copies one model, so that recipes with slices can stack, repeat and drop layers (mergekit).

Stacking was made popular by mergekit's frankenmerges; SOLAR's depth up-scaling (Kim et al., arXiv 2312.15166) and the
data-flow space of Akiba et al. (arXiv 2403.13187) are recipes of it.
"""

from collections.abc import Mapping

from evomerge.kernels import LinComb
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State

GENES = (Gene("scale", 0.5, 1.5, 1.0),)
SHARED: Mapping[str, float | bool | None] = {}
PER_EXPERT: Mapping[str, float | None] = {"scale": 1.0}
BASE = ("scale",)
BASE_MODEL: BaseModel = "optional"
EXPERTS = (1, 1)
ONE_SOURCE = True
EXACTNESS: Exactness = "exact"
OPTIONS: Mapping[str, tuple[str, ...]] = {}


def prepare(setup: Setup) -> State:
    """Nothing: a tensor is copied."""
    return {}


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """scale·θ of the one source; a base that is not the source has no effect."""
    if genes.experts:
        return LinComb(0.0, (float(genes.experts[0]["scale"]),))
    return LinComb(float(genes.base["scale"]), ())
