"""A recipe made into files: a folder that transformers loads, an adapter that peft loads, or a GGUF file.

The room writes with the same materializer that a search scores with. A folder has a model card and reproduce.json,
which name no path of this machine, and can be pushed to the hub. The rule: a folder is complete or is not there.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.export.adapter import export_adapter, merge_adapter
    from evomerge.export.folder import export_recipe, merge_recipe, open_recipe
    from evomerge.export.gguf import merge_gguf, parse_format
    from evomerge.export.push import PushTarget, merge_and_push, recorded_fingerprint
    from evomerge.export.reproduction import adapter_options
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "PushTarget",
    "adapter_options",
    "export_adapter",
    "export_recipe",
    "merge_adapter",
    "merge_and_push",
    "merge_gguf",
    "merge_recipe",
    "open_recipe",
    "parse_format",
    "recorded_fingerprint",
]
