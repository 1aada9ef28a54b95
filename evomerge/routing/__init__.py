"""Routers of mixtures of experts, fitted to items after a merge (HARC).

The room reads the inputs of routers in a live model and solves for their weights; it knows no task, no score and no
search. The rule: what is returned depends on the merged weights, the models' own routers and the given token ids alone,
and the model's weights are as before when a function returns.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.routing.calibration import calibrate_routers
    from evomerge.routing.equation import RouterEquation
    from evomerge.routing.tensor_names import has_routers, refuse_other_routing, router_names
    from evomerge.routing.work import RouterDomain, RouterWork
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "RouterDomain",
    "RouterEquation",
    "RouterWork",
    "calibrate_routers",
    "has_routers",
    "refuse_other_routing",
    "router_names",
]
