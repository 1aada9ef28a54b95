"""A recipe made into files: a checkpoint folder that transformers loads, or an adapter that peft loads.

The room writes with the same materializer that a search scores with. The rule: a folder is complete or is not there.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.export.adapter import export_adapter, merge_adapter
    from evomerge.export.folder import export_recipe, merge_recipe, open_recipe
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "export_adapter",
    "export_recipe",
    "merge_adapter",
    "merge_recipe",
    "open_recipe",
]
