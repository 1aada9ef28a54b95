"""MXFP4 (Open Compute Project 2023): 4-bit floats with one power of two for 32 of them, in GPT-OSS's packed experts."""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.models.quantised._contract import Packed, Settings, Stored

BLOCKS, SCALES = "_blocks", "_scales"
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
BIAS = 127


def describe(settings: Settings) -> str:
    return "mxfp4"


def packed(settings: Settings, stored: Stored) -> Mapping[str, Packed]:
    names = [name.removesuffix(BLOCKS) for name in stored if name.endswith(BLOCKS)]
    return {name: _packed(stored, name) for name in names if f"{name}{SCALES}" in stored}


def _packed(stored: Stored, name: str) -> Packed:
    blocks, scales = f"{name}{BLOCKS}", f"{name}{SCALES}"
    experts, rows, groups, pairs = stored.shape(blocks)

    def unpack() -> Tensor:
        # One expert at a time: the table is indexed by int64, which is 16 times as large as what is stored.
        parts = zip(stored.tensor(blocks), stored.tensor(scales), strict=True)
        dense = torch.stack([_values(block, scale) for block, scale in parts])
        return dense.transpose(1, 2).contiguous()  # stored by output, used by input

    return Packed((experts, 2 * groups * pairs, rows), (blocks, scales), unpack)


def _values(blocks: Tensor, scales: Tensor) -> Tensor:
    """The matrix of one expert in bfloat16, which holds every product of such a float and such a power exactly."""
    table = torch.tensor([*MAGNITUDES, *(-value for value in MAGNITUDES)])
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2).to(torch.int64)
    return torch.ldexp(table[codes], scales.to(torch.int32)[..., None] - BIAS).flatten(-2).bfloat16()
