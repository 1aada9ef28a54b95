"""The recipe: a frozen description of one merge, its content key, and its YAML, which mergekit reads.

A recipe names models, values and layers; it knows no tensor and opens no model. The rule: reading and writing are
inverse, and every key of a file either has its effect, is reported as having none, or is refused by name.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.recipes.document import FROZEN_FROM, grade, to_document
    from evomerge.recipes.mergekit_yaml import dump_recipe, load_recipe, original_recipe, parse_recipe
    from evomerge.recipes.recipe import (
        DTYPES,
        ModelRef,
        Reader,
        Recipe,
        Rule,
        Scalar,
        Setting,
        Settings,
        Slice,
        Source,
        evaluate,
        models_form,
        reader,
        simplify,
    )
    from evomerge.recipes.tokenizer import AUTO, TokenizerRequest, read_request
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "AUTO",
    "DTYPES",
    "FROZEN_FROM",
    "ModelRef",
    "Reader",
    "Recipe",
    "Rule",
    "Scalar",
    "Setting",
    "Settings",
    "Slice",
    "Source",
    "TokenizerRequest",
    "dump_recipe",
    "evaluate",
    "grade",
    "load_recipe",
    "models_form",
    "original_recipe",
    "parse_recipe",
    "read_request",
    "reader",
    "simplify",
    "to_document",
]
