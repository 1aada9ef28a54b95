"""FP8 weights with one scale for each block, as DeepSeek and Qwen publish them (`weight_scale_inv`)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.quantised._contract import Packed, Settings, Shape, Stored

SCALE = "_scale_inv"
EXPONENTS = ("U8", "F8_E8M0")  # scales that are powers of two, stored by their exponents
BIAS = 127


def describe(settings: Settings) -> str:
    block = settings.get("weight_block_size")
    return f"fp8 in blocks of {block[0]}×{block[1]}" if block else "fp8"


def packed(settings: Settings, stored: Stored) -> Mapping[str, Packed]:
    block = settings.get("weight_block_size")
    pairs = {name.removesuffix(SCALE): name for name in stored if name.endswith(SCALE)}
    return {weight: _packed(stored, weight, scale, block) for weight, scale in pairs.items() if weight in stored}


def _packed(stored: Stored, weight: str, scale: str, block: Shape | None) -> Packed:
    shape, grid = stored.shape(weight), stored.shape(scale)
    if not stored.dtype(weight).startswith("F8_E"):
        raise ExpertError(f"{weight}: {stored.dtype(weight)}, not FP8, although it has scales; save the model again")
    sizes = _block_sizes(weight, shape, grid, block)
    stem = weight.removesuffix("weight")
    unused = [name for name in (f"{stem}activation_scale", f"{stem}input_scale") if name in stored]

    def unpack() -> Tensor:
        scales = stored.tensor(scale)
        is_exponent = stored.dtype(scale) in EXPONENTS
        factors = (scales.view(torch.uint8).float() - BIAS).exp2() if is_exponent else scales.float()
        factors = factors.reshape(grid if len(grid) > 1 else (1, -1))
        for dim, size in zip((-2, -1), sizes, strict=True):
            factors = factors.repeat_interleave(size, dim).narrow(dim, 0, shape[dim])
        return stored.tensor(weight).float() * factors

    return Packed(shape, (weight, scale, *unused), unpack)


def _block_sizes(weight: str, shape: Shape, grid: Shape, block: Shape | None) -> tuple[int, int]:
    """Rows and columns for each scale: those of the configuration if they fit, else those that divide the shape."""
    if len(shape) < 2 or len(grid) not in (0, 1, len(shape)):
        raise ExpertError(f"{weight}: FP8 of shape {list(shape)} with scales of {list(grid)} is not known")
    rows, columns = grid[-2:] if len(grid) == len(shape) else (1, *(grid or (1,)))
    if block and (rows, columns) == (-(-shape[-2] // block[0]), -(-shape[-1] // block[1])):
        return block[0], block[1]
    if shape[-2] % rows or shape[-1] % columns:
        raise ExpertError(f"{weight}: {list(shape)} cannot be divided into blocks for scales of {list(grid)}")
    return shape[-2] // rows, shape[-1] // columns
