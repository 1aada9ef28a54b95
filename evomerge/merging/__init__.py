"""From a recipe to tensors: the plan, the tables that methods prepare, the placement of the experts, and the writes.

`Materializer` is the only code that writes weights, for a search, for `merge` and for `score` alike. The room knows
nothing of tasks or scores. The rule: a candidate is rebuilt from the base every time, every parameter is written or the
merge raises, and what is written does not depend on the device's memory, the worker or the candidate before.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.merging.frozen import freeze
    from evomerge.merging.materializer import Fingerprint, Materializer, Part, fingerprint
    from evomerge.merging.options import COMPILE, PLACEMENTS
    from evomerge.merging.placement import AHEAD, choose_placement, sizes
    from evomerge.merging.prepared import cache_folder, digest
    from evomerge.merging.tensor_plan import Input, TensorPlan, base_layers, output_layers, plan
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "AHEAD",
    "COMPILE",
    "PLACEMENTS",
    "Fingerprint",
    "Input",
    "Materializer",
    "Part",
    "TensorPlan",
    "base_layers",
    "cache_folder",
    "choose_placement",
    "digest",
    "fingerprint",
    "freeze",
    "output_layers",
    "plan",
    "sizes",
]
