"""The recipe: a frozen description of one merge, its content key, and its YAML, which mergekit reads.

A recipe names models, values and layers; it knows no tensor and opens no model. The rule: reading and writing are
inverse, and every key of a file either has its effect, is reported as having none, or is refused by name.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.recipes.document import FROZEN_FROM, recipe_exactness, to_document
    from evomerge.recipes.mergekit_yaml import dump_recipe, load_recipe, original_recipe, parse_recipe
    from evomerge.recipes.recipe import (
        DTYPES,
        FilteredValue,
        ModelRef,
        Recipe,
        Scalar,
        Setting,
        SettingReader,
        Settings,
        Slice,
        Source,
        TensorFile,
        evaluate,
        recipe_of_models,
        setting_reader,
        simplify_setting,
    )
    from evomerge.recipes.tokenizer import (
        AUTO_TEMPLATE,
        TokenizerRequest,
        TokenRule,
        parse_tokenizer_request,
        parse_tokenizer_section,
        request_of,
    )
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "AUTO_TEMPLATE",
    "DTYPES",
    "FROZEN_FROM",
    "FilteredValue",
    "ModelRef",
    "Recipe",
    "Scalar",
    "Setting",
    "SettingReader",
    "Settings",
    "Slice",
    "Source",
    "TensorFile",
    "TokenRule",
    "TokenizerRequest",
    "dump_recipe",
    "evaluate",
    "load_recipe",
    "original_recipe",
    "parse_recipe",
    "parse_tokenizer_request",
    "parse_tokenizer_section",
    "recipe_exactness",
    "recipe_of_models",
    "request_of",
    "setting_reader",
    "simplify_setting",
    "to_document",
]
