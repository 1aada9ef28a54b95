"""compressed-tensors (llm-compressor): packed integers of 2, 4 or 8 bits, int8 and FP8 with a scale for each group."""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.quantised._contract import Packed, Settings, Shape, Stored
from evomerge.models.quantised._integers import WORD, unpack_words

BITS = (2, 4, 8)  # integers of other sizes have been packed in two ways
UNPACKED = ("I8", "F8_E4M3")
OF_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")


def describe(settings: Settings) -> str:
    return f"compressed-tensors {settings.get('format', '')}".rstrip()


def packed(settings: Settings, stored: Stored) -> Mapping[str, Packed]:
    stems = [name.removesuffix("weight_scale") for name in stored if name.endswith(".weight_scale")]
    return {f"{stem}weight": _packed(settings, stored, stem) for stem in stems}


def _packed(settings: Settings, stored: Stored, stem: str) -> Packed:
    names = ["weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape", *OF_ACTIVATIONS]
    integers = f"{stem}weight_packed"
    weight = integers if integers in stored else f"{stem}weight"
    inputs = (weight, *(f"{stem}{name}" for name in names if f"{stem}{name}" in stored))
    if weight == integers and stored.dtype(weight) == "I32" and f"{stem}weight_shape" in stored:
        shape: Shape = tuple(stored.tensor(f"{stem}weight_shape").tolist())
        bits = _bits(weight, stored.shape(weight), shape)
    elif weight != integers and weight in stored and stored.dtype(weight) in UNPACKED:
        shape, bits = stored.shape(weight), None
    else:
        form = settings.get("format", "an unknown format")
        raise ExpertError(
            f"{weight}: compressed-tensors in {form} cannot be dequantised here; give it as it was before"
        )

    grid = stored.shape(f"{stem}weight_scale")
    if len(grid) == 2 and any(size % count for size, count in zip(shape, grid, strict=True)):
        raise ExpertError(f"{weight}: {list(shape)} cannot be divided into blocks for scales of {list(grid)}")

    def unpack() -> Tensor:
        scales, zeros = stored.tensor(f"{stem}weight_scale"), _zeros(stored, stem, shape, bits)
        values = stored.tensor(weight).float() if bits is None else _signed(stored.tensor(weight), bits, shape[1])
        group = _groups(stored, stem, shape, scales)
        offset = 0.0 if zeros is None else _spread(zeros, group, shape[0])
        return ((values - offset) * _spread(scales.float(), group, shape[0])).to(scales.dtype)

    return Packed(shape, inputs, unpack)


def _bits(name: str, words: Shape, shape: Shape) -> int:
    bits = words[-1] * WORD // shape[-1] if len(shape) == 2 else 0
    if bits not in BITS:
        raise ExpertError(f"{name}: {list(words)} words for {list(shape)} are no matrix of 2, 4 or 8 bits")
    return bits


def _signed(words: Tensor, bits: int, count: int) -> Tensor:
    return (unpack_words(words.T, bits, count).T - (1 << (bits - 1))).float()


def _zeros(stored: Stored, stem: str, shape: Shape, bits: int | None) -> Tensor | None:
    """The zero points like the scales; where the weight is packed, they are packed along the outputs."""
    name = f"{stem}weight_zero_point"
    if name not in stored:
        return None
    zeros = stored.tensor(name)
    if bits is None or stored.dtype(name) != "I32":
        return zeros.float()
    return (unpack_words(zeros, bits, shape[0]) - (1 << (bits - 1))).float()


def _groups(stored: Stored, stem: str, shape: Shape, scales: Tensor) -> Tensor:
    """The column of the scales for each input."""
    count = scales.shape[-1] if scales.dim() == 2 else 1
    if f"{stem}weight_g_idx" in stored and int((given := stored.tensor(f"{stem}weight_g_idx")).min()) >= 0:
        return given.long()
    return torch.arange(shape[-1]) * count // shape[-1]


def _spread(scales: Tensor, group: Tensor, rows: int) -> Tensor:
    """Scales of the tensor, of rows, of groups in rows or of blocks, for each value."""
    if scales.dim() < 2:
        return scales.reshape(-1, 1)
    size = rows // len(scales) if len(scales) > 1 else 1
    return scales[:, group].repeat_interleave(size, 0)
