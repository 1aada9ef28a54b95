"""A recipe made into files: a checkpoint folder that transformers loads, or an adapter that peft loads."""

from evomerge.export.adapter import export_adapter, merge_adapter
from evomerge.export.folder import export_recipe, merge_recipe

__all__ = ["export_adapter", "export_recipe", "merge_adapter", "merge_recipe"]
