"""Counter-based random masks: no state, no storage, the same bits on every device and in every file layout.

An element's number depends on (seed, tensor, expert, element index) alone. The generator is two keyed rounds of the
32-bit mixer `lowbias32` (C. Wellons, hash-prospector; constants with bias 0.107) in wrap-around integer arithmetic.
"""

import hashlib

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF
BLOCK = 1 << 20


def mask_key(seed: int, tensor: str, expert: int) -> tuple[int, int]:
    """Two 32-bit words from BLAKE2b over seed, parameter name and the expert's place in the recipe."""
    digest = hashlib.blake2b(f"{seed}\0{tensor}\0{expert}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def uniform32(key: tuple[int, int], start: int, stop: int, device: torch.device) -> Tensor:
    """Uniform 32-bit integers (in int64) for the elements start … stop − 1."""
    index = torch.arange(start, stop, dtype=torch.int64, device=device)
    inner = _mix((index & MASK32) ^ key[0])
    return _mix(inner ^ key[1] ^ (index >> 32))


def drop_mask(key: tuple[int, int], density: float, shape: torch.Size, device: torch.device) -> Tensor:
    """Boolean mask that keeps an element with probability `density`; masks of one key are nested in the density."""
    limit = round(density * 2**32)
    mask = torch.empty(shape.numel(), dtype=torch.bool, device=device)
    for start in range(0, mask.numel(), BLOCK):  # blocks bound the int64 scratch
        stop = min(start + BLOCK, mask.numel())
        mask[start:stop] = uniform32(key, start, stop, device) < limit
    return mask.view(shape)


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words; products wrap modulo 2⁶⁴ and are cut to 32 bits, which is exact."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & MASK32
    x = ((x ^ (x >> 15)) * 0xD35A2D97) & MASK32
    return x ^ (x >> 15)
