"""A recipe made into files: a checkpoint folder that transformers loads, with its model card."""

from evomerge.export.folder import export_recipe, merge_recipe

__all__ = ["export_recipe", "merge_recipe"]
