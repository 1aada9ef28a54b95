"""Independent readings of numbers: the decimal number that a text says, beside the value that was made of it."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import yaml

DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NULL = {"", "~", "null"}


def texts_of(text: str) -> Any:
    """The document of a YAML text in which every scalar is its text, as it is written."""
    return yaml.load(text, Loader=yaml.BaseLoader)


def says(text: Any, value: Any) -> bool:
    """Whether a value is what its text says: the same number to the precision of a float, the same truth value or text.

    For lists and mappings, whether that holds for each entry.
    """
    if isinstance(value, list):
        return isinstance(text, list) and len(text) == len(value) and all(map(says, text, value))
    if isinstance(value, Mapping):
        pairs = list(value.items())
        return isinstance(text, Mapping) and len(text) == len(pairs) and all(map(_pair_says, text.items(), pairs))
    if not isinstance(text, str):
        return False
    if value is None or isinstance(value, bool):
        return text.lower() in NULL if value is None else TRUTH.get(text.lower()) is value
    return text == value if isinstance(value, str) else _is_number(text, value)


def _pair_says(texts: tuple[Any, Any], values: tuple[Any, Any]) -> bool:
    return all(map(says, texts, values))


def _is_number(text: str, value: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return text.lower().lstrip("+") == {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    if not DECIMAL.fullmatch(text) or re.fullmatch(r"[-+]?0[0-9]+", text):
        return False
    exact = Decimal(text)
    if isinstance(value, int):
        return exact == value
    return float(exact) == value and (value != 0 or exact == 0)
