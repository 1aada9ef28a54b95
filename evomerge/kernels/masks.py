"""Counter-based random masks: no state, no storage, the same bits on every device and in every file layout.

An element's number depends on (seed, tensor, expert, element index) alone. The generator is two keyed rounds of the
32-bit mixer `lowbias32` (C. Wellons, hash-prospector; constants with bias 0.107). All arithmetic is int32 that wraps,
which vectorises on every device; the first round is common to all experts of a tensor. The second one does without the
mixer's first and last shift: what goes in is mixed already, and of what comes out the weaker low byte is not used. That
needs keys that differ in many bits, which hashes do: of 2³² differences a few thousand, of one to three bits, are weak.
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from evomerge.kernels.coefficients import Block

FIRST, SECOND = 0x21F0AAAD, 0xD35A2D97 - (1 << 32)
LEVELS = 1 << 24  # a mask's resolution: an element is kept where its 24-bit number is below density·2²⁴


@lru_cache(maxsize=1 << 12)  # every candidate asks again
def mask_keys(seed: int, tensor: str, experts: int) -> tuple[int, ...]:
    """One 32-bit word for the tensor, then one per expert: BLAKE2b over seed, parameter name and the expert's place."""
    return tuple(_word(f"{seed}\0{tensor}\0{expert}") for expert in range(-1, experts))


def limit(density: float) -> int:
    """The 24-bit number below which elements are kept; 0 keeps none and 1 all of them, exactly."""
    return round(min(max(density, 0.0), 1.0) * LEVELS)


def shared_round(block: Block, key: Tensor) -> Tensor:
    """The first mixing round of a block's elements; `key` is the tensor's word."""
    index = torch.arange(block.base.numel(), dtype=torch.int32, device=block.base.device) + block.start
    return _mix(index ^ key)


def uniform24(mixed: Tensor, key: Tensor, high: Tensor) -> Tensor:
    """Uniform 24-bit integers (in int32) for one expert, from the tensor's first round and the expert's word."""
    x = (mixed ^ key ^ high) * FIRST
    return (((x ^ ((x >> 15) & 0x1FFFF)) * SECOND) >> 8) & 0xFFFFFF


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words: `>>` is arithmetic on int32, so the sign bits that it drags in are cut off."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * FIRST
    x = (x ^ ((x >> 15) & 0x1FFFF)) * SECOND
    return x ^ ((x >> 15) & 0x1FFFF)


def _word(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little", signed=True)
