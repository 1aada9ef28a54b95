"""Formats of quantised weights: one file each, found by being in this folder, named like `quant_method` in config.json.

A format says which dense tensors follow from the stored ones, and computes them one at a time in plain torch, without a
GPU and without the package that wrote them. Its module has `describe` and `packed`; `Format` in _contract.py documents
them. It knows neither the cache nor the model's architecture. The rule: the values are those that transformers, or the
format's own package, computes when it dequantises; a variant that it does not know is refused by name, never guessed.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.models.quantised._contract import Format, Packed, Settings, Shape, Stored
    from evomerge.models.quantised._registry import load_format
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = ["Format", "Packed", "Settings", "Shape", "Stored", "load_format"]
