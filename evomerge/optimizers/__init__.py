"""Ask/tell over the unit cube: one file per optimizer, found by being in this folder.

An optimizer sees vectors and losses (lower is better), never models or scores. It is re-created from its seed and told
the same losses on resume, so it must be deterministic and keep its own random stream.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.optimizers._contract import (
        MAX_POPULATION,
        AsynchronousOptimizer,
        Coordinate,
        Descent,
        Optimizer,
        Population,
        SlopeOptimizer,
        SlopeReply,
        SlopeRequest,
        Terms,
    )
    from evomerge.optimizers._registry import (
        check,
        create,
        names,
        proposes_candidates,
        supports_asynchronous,
        supports_several_objectives,
        uses_slopes,
    )
    from evomerge.optimizers._surrogate import Surrogate
    from evomerge.optimizers._vector import Vector
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "MAX_POPULATION",
    "AsynchronousOptimizer",
    "Coordinate",
    "Descent",
    "Optimizer",
    "Population",
    "SlopeOptimizer",
    "SlopeReply",
    "SlopeRequest",
    "Surrogate",
    "Terms",
    "Vector",
    "check",
    "create",
    "names",
    "proposes_candidates",
    "supports_asynchronous",
    "supports_several_objectives",
    "uses_slopes",
]
