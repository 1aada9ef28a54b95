"""From a recipe to tensors: the plan, the tables that methods prepare, the placement of the experts, and the writes.

`Materializer` is the only code that writes weights, for a search, for `merge` and for `score` alike. The room knows
nothing of tasks or scores. The rule: a candidate is rebuilt from the base every time, every parameter is written or the
merge raises, and what is written does not depend on the device's memory, the worker or the candidate before.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.merging.digests import Fingerprint, fingerprint
    from evomerge.merging.frozen import freeze
    from evomerge.merging.live_tensors import FixedTensors
    from evomerge.merging.materializer import Materializer, TensorMerge
    from evomerge.merging.options import COMPILE, PLACEMENTS
    from evomerge.merging.placement import (
        PREFETCH_DEPTH,
        AvailableMemory,
        MemoryNeed,
        MemoryPlan,
        Mode,
        choose_placement,
        flow_need,
        memory_need,
        plan_memory,
        plan_placement,
    )
    from evomerge.merging.prepared import digest
    from evomerge.merging.router_file import keep_routers, read_routers, routers_at_hand, stored_routers, write_routers
    from evomerge.merging.slope_hooks import SlopeHooks, Sums
    from evomerge.merging.tangents import TensorTangents, recipe_tangents
    from evomerge.merging.tensor_plan import InputTensor, TensorPlan, base_layers, idle_filters, output_layers, plan
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "COMPILE",
    "PLACEMENTS",
    "PREFETCH_DEPTH",
    "AvailableMemory",
    "Fingerprint",
    "FixedTensors",
    "InputTensor",
    "Materializer",
    "MemoryNeed",
    "MemoryPlan",
    "Mode",
    "SlopeHooks",
    "Sums",
    "TensorMerge",
    "TensorPlan",
    "TensorTangents",
    "base_layers",
    "choose_placement",
    "digest",
    "fingerprint",
    "flow_need",
    "freeze",
    "idle_filters",
    "keep_routers",
    "memory_need",
    "output_layers",
    "plan",
    "plan_memory",
    "plan_placement",
    "read_routers",
    "recipe_tangents",
    "routers_at_hand",
    "stored_routers",
    "write_routers",
]
