"""Counter-based random masks: no generator state, no stored masks, equal bits on every device and file layout.

The random number of an element depends only on (seed, tensor, expert, element index). The generator applies two keyed
rounds of the 32-bit mixer `lowbias32` (C. Wellons, hash-prospector; constants with bias 0.107). All arithmetic is
wrapping int32, which vectorises on every device. The first round is shared by all experts of a tensor. The second round
omits the mixer's first and last shift: its input is already mixed, and the less random low byte of its output is
discarded. This requires keys that differ in many bits, as hashes do: of the 2³² possible differences between two
keys only a few thousand, of one to three bits, give correlated masks.
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from evomerge.kernels.coefficients import Block

FIRST, SECOND = 0x21F0AAAD, 0xD35A2D97 - (1 << 32)
MASK_LEVELS = 1 << 24  # resolution of a density: an element is kept if its 24-bit number is below density·2²⁴


@lru_cache(maxsize=1 << 12)  # every candidate of a search needs the same keys
def mask_keys(seed: int, tensor: str, experts: int) -> tuple[int, ...]:
    """One 32-bit key for the tensor, then one per expert: BLAKE2b of seed, parameter name and the expert's index."""
    return tuple(_word(f"{seed}\0{tensor}\0{expert}") for expert in range(-1, experts))


def mask_threshold(density: float) -> int:
    """The 24-bit threshold below which elements are kept; density 0 keeps none of them and density 1 keeps all."""
    return round(min(max(density, 0.0), 1.0) * MASK_LEVELS)


def shared_round(block: Block, key: Tensor) -> Tensor:
    """The first mixing round for the elements of a block; `key` is the tensor's key."""
    index = torch.arange(block.base.numel(), dtype=torch.int32, device=block.base.device) + block.index_low
    return _mix(index ^ key)


def uniform24(mixed: Tensor, key: Tensor, index_high: Tensor) -> Tensor:
    """Uniform 24-bit integers (as int32) for one expert, from `shared_round` and the expert's key."""
    x = (mixed ^ key ^ index_high) * FIRST
    return (((x ^ ((x >> 15) & 0x1FFFF)) * SECOND) >> 8) & 0xFFFFFF


def _mix(x: Tensor) -> Tensor:
    """`lowbias32`; `>>` on int32 is an arithmetic shift, so a mask clears the sign bits that it shifts in."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * FIRST
    x = (x ^ ((x >> 15) & 0x1FFFF)) * SECOND
    return x ^ ((x >> 15) & 0x1FFFF)


def _word(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little", signed=True)
