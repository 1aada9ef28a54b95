"""bitsandbytes: 4-bit blocks (nf4, fp4; Dettmers et al. 2023, QLoRA), double quantisation, and LLM.int8() rows."""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.quantised._contract import Packed, Settings, Stored, require

STATE = ".quant_state.bitsandbytes__"
NORMALISER = 7.874015718698502e-3  # 1/127, as bitsandbytes writes it


def describe(settings: Settings) -> str:
    if settings.get("load_in_8bit"):
        return "bitsandbytes int8"
    nested = " with double quantisation" if settings.get("bnb_4bit_use_double_quant") else ""
    return f"bitsandbytes {settings.get('bnb_4bit_quant_type', 'fp4')}{nested}"


def packed(settings: Settings, stored: Stored) -> Mapping[str, Packed]:
    found = {}
    for name in stored:
        if STATE in name:
            weight = name.partition(STATE)[0]
            found[weight] = _four_bits(stored, weight, name)
        elif name.endswith(".SCB"):
            weight = f"{name.removesuffix('.SCB')}.weight"
            found[weight] = _eight_bits(stored, weight, name)
    return found


def _four_bits(stored: Stored, weight: str, state: str) -> Packed:
    require(stored, weight, weight, f"{weight}.absmax", f"{weight}.quant_map")
    about = _state(stored, state)
    shape, dtype = tuple(about["shape"]), getattr(torch, about["dtype"])
    nested = [f"{weight}.{part}" for part in ("nested_absmax", "nested_quant_map") if f"{weight}.{part}" in stored]

    def unpack() -> Tensor:
        pairs = stored.tensor(weight).reshape(-1).view(torch.uint8).to(torch.int32)
        codes = torch.stack((pairs >> 4, pairs & 15), dim=1).reshape(-1)[: prod(shape)]
        scales = _scales(stored, weight, about) if nested else stored.tensor(f"{weight}.absmax")
        values = stored.tensor(f"{weight}.quant_map").float()[codes]
        return _by_block(values, scales.float(), about["blocksize"]).to(dtype).reshape(shape)

    return Packed(shape, (weight, f"{weight}.absmax", f"{weight}.quant_map", *nested, state), unpack)


def _state(stored: Stored, name: str) -> dict[str, Any]:
    """The JSON object of a few numbers that bitsandbytes stores as a tensor of bytes."""
    try:
        about = dict(json.loads(bytes(stored.tensor(name).tolist())))
        return {key: about[key] for key in ("blocksize", "dtype", "shape")} | about
    except (ValueError, KeyError, TypeError) as error:
        raise ExpertError(f"{name}: not a state of bitsandbytes ({error}); download the model again") from None


def _scales(stored: Stored, weight: str, about: Mapping[str, Any]) -> Tensor:
    """The largest values of the blocks, which are quantised themselves."""
    codes = stored.tensor(f"{weight}.absmax").to(torch.int32)
    values = stored.tensor(f"{weight}.nested_quant_map").float()[codes]
    scales = stored.tensor(f"{weight}.nested_absmax").float()
    return _by_block(values, scales, about["nested_blocksize"]) + float(about["nested_offset"])


def _by_block(values: Tensor, scales: Tensor, size: int) -> Tensor:
    """Values times the scale of their block; the last block may be shorter."""
    whole = len(values) // size * size
    blocks = values[:whole].reshape(-1, size) * scales[: whole // size, None]
    return torch.cat((blocks.reshape(-1), values[whole:] * scales[whole // size :]))


def _eight_bits(stored: Stored, weight: str, scales: str) -> Packed:
    require(stored, scales, weight)
    if stored.dtype(weight) != "I8":
        raise ExpertError(f"{weight}: {stored.dtype(weight)} with int8 scales beside it; save the model again")
    layout = f"{weight}_format"

    def unpack() -> Tensor:
        if layout in stored and int(stored.tensor(layout)) != 0:
            raise ExpertError(
                f"{weight}: int8 in a layout for one kind of GPU; save it with bitsandbytes 0.45 or newer"
            )
        return stored.tensor(weight) * stored.tensor(scales).float().reshape(-1, 1) * NORMALISER

    return Packed(stored.shape(weight), (weight, scales, *([layout] if layout in stored else [])), unpack)
