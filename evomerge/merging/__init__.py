"""merging."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.merging.frozen import freeze
    from evomerge.merging.materializer import COMPILE, Fingerprint, Materializer, Part, fingerprint
    from evomerge.merging.placement import AHEAD, MODES, choose_placement, sizes
    from evomerge.merging.prepared import cache_folder, digest
    from evomerge.merging.tensor_plan import Input, TensorPlan, base_layers, output_layers, plan
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "AHEAD",
    "COMPILE",
    "MODES",
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
