"""The plain tensors of a quantised checkpoint, from headers and configurations; each is computed when it is read."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import ConfigError, ExpertError
from evomerge.models.checkpoint import WEIGHTS_KEY, Checkpoint, Shape, read_json
from evomerge.models.quantised import Format, Packed, load_format
from evomerge.recipes import DTYPES

QUANTISATION_KEYS = ("quantization_config", "compression_config")  # of config.json; the second is an older name
DEQUANTISED_DTYPE = "EVOMERGE_DEQUANTISED_DTYPE"
DEFAULT_DTYPE = "bfloat16"
SAFETENSORS_TYPES = {
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
}
PLAIN_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "BOOL": 1}
MALFORMED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
PACKED_INTEGERS = ("I32",)  # never a weight of its own in a quantised checkpoint


@dataclass(frozen=True)
class DenseTensor:
    """A tensor of the plain checkpoint; `read` computes it, or reads it where it is stored plainly."""

    shape: Shape
    dtype: str  # of safetensors
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Its bytes in a file."""
        return prod(self.shape) * PLAIN_BYTES[self.dtype]


@dataclass(frozen=True)
class DensePlan:
    """A quantised checkpoint as a plain one: its format, dtype and configuration, and its tensors by name.

    `declared` is the dtype without the environment variable.
    """

    format: str
    dtype: str
    declared: str
    config: Mapping[str, Any]
    tensors: Mapping[str, DenseTensor]

    @property
    def nbytes(self) -> int:
        """The bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def quantisation(folder: Path) -> dict[str, Any] | None:
    """The settings of the folder's quantisation, from its config.json; None for a plain checkpoint or an adapter."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    sections = (config, config.get("text_config") or {})
    found = next((entry for section in sections for key in QUANTISATION_KEYS if (entry := section.get(key))), None)
    if found is not None and not isinstance(found, dict):
        raise ExpertError(f"{path}: its quantization_config is {found!r}, not an object; download it again")
    return found


def plan_folder(folder: Path) -> DensePlan:
    """The plan of a folder whose config.json has a quantisation; ExpertError names what cannot be dequantised."""
    settings, config = quantisation(folder), read_json(folder / "config.json")
    assert settings is not None
    try:
        kind = load_format(settings)
        stored = Checkpoint(folder)
        dtype = target_dtype(config)
        packed = _all_packed(kind, settings, stored)
        if not packed:
            raise ExpertError(f"config.json says {kind.describe(settings)}, but no tensor is; delete its quantisation")
        tensors = dict(sorted(_tensors(stored, packed, dtype)))
    except ExpertError as error:
        raise ExpertError(f"{folder}: {error}" if str(folder) not in str(error) else str(error)) from None
    return DensePlan(kind.describe(settings), dtype, declared_dtype(config), plain_config(config, dtype), tensors)


def _all_packed(kind: Format, settings: dict[str, Any], stored: Checkpoint) -> Mapping[str, Packed]:
    try:
        return kind.packed(settings, stored)
    except MALFORMED as error:
        name = settings.get("quant_method")
        raise ExpertError(f"its settings of {name} cannot be read ({error!r}); download the model again") from error


def plain_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration without its quantisation."""
    dropped = (*QUANTISATION_KEYS, "torch_dtype", WEIGHTS_KEY)
    plain = {key: value for key, value in config.items() if key not in dropped} | {"dtype": dtype}
    if isinstance(text := config.get("text_config"), dict):
        plain["text_config"] = {key: value for key, value in text.items() if key not in QUANTISATION_KEYS}
    return plain


def target_dtype(config: Mapping[str, Any]) -> str:
    """The dtype to dequantise to: that of the environment variable, or else the one that the configuration declares."""
    if chosen := os.environ.get(DEQUANTISED_DTYPE):
        if chosen not in DTYPES:
            raise ConfigError(f"{DEQUANTISED_DTYPE}={chosen}: choose one of {', '.join(DTYPES)}")
        return chosen
    return declared_dtype(config)


def declared_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that the configuration declares, or else bfloat16."""
    sections = (config, config.get("text_config") or {})
    found = [str(section.get(key)).removeprefix("torch.") for section in sections for key in ("dtype", "torch_dtype")]
    return next((name for name in found if name in DTYPES), DEFAULT_DTYPE)


def _tensors(stored: Checkpoint, packed: Mapping[str, Packed], dtype: str) -> Iterator[tuple[str, DenseTensor]]:
    used = {name for entry in packed.values() for name in entry.inputs}
    for name, entry in packed.items():
        yield name, DenseTensor(entry.shape, SAFETENSORS_TYPES[dtype], partial(_unpacked, entry, dtype))
    for name in stored:
        if name in used:
            continue
        kind = stored.dtype(name)
        if kind not in PLAIN_BYTES or kind in PACKED_INTEGERS:
            raise ExpertError(f"{name} is {kind}, and nothing beside it says how to dequantise it")
        yield name, DenseTensor(stored.shape(name), kind, partial(stored.tensor, name))


def _unpacked(entry: Packed, dtype: str) -> Tensor:
    try:
        values = entry.unpack()
    except MALFORMED as error:
        reason = " ".join(str(error).split())[:200]
        raise ExpertError(f"{entry.inputs[0]}: cannot be dequantised ({reason}); download the model again") from error
    if tuple(values.shape) != entry.shape:
        raise ExpertError(f"{entry.inputs[0]}: is {list(values.shape)} dequantised, not {list(entry.shape)}")
    return values.to(getattr(torch, dtype))
