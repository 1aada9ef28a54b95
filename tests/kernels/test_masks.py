"""The counter-based generator against plain integers, and the statistics of its masks."""

import hashlib
import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from evomerge.kernels.coefficients import Block
from evomerge.kernels.consensus import Elementwise
from evomerge.kernels.masks import MASK_LEVELS, mask_keys, mask_threshold, shared_round, uniform24
from evomerge.kernels.runner import BLOCK, Runner

LONG_BLOCK = BLOCK["cpu"]
NAME = "model.layers.0.mlp.up_proj.weight"
KEYS = mask_keys(7, NAME, 3)
GOLDEN_KEYS = (374853335, 943085930, 607869474, 1033194977)
GOLDEN_NUMBERS = [7297256, 1655281, 4942201, 1730912]
SIZE = 100_000
WORD = 2**32 - 1


def mix(x: int) -> int:
    """lowbias32 with plain integers."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & WORD
    x = ((x ^ (x >> 15)) * 0xD35A2D97) & WORD
    return x ^ (x >> 15)


def number(tensor: int, expert: int, index: int) -> int:
    """The 24-bit number of one element."""
    x = ((mix((index & WORD) ^ (tensor & WORD)) ^ (expert & WORD) ^ (index >> 32)) * 0x21F0AAAD) & WORD
    return (((x ^ (x >> 15)) * 0xD35A2D97) & WORD) >> 8


def rule(block: Block) -> Tensor:
    """24-bit numbers as floats, which hold them exactly."""
    return uniform24(shared_round(block, block.words[0]), block.words[1], block.index_high).float()


def numbers(keys: tuple[int, int] = (KEYS[0], KEYS[1]), size: int = SIZE, start: int = 0) -> Tensor:
    """The numbers of `size` elements as a pass makes them, block by block."""
    out = torch.empty(size)
    Runner().run(Elementwise(rule, ()), out, [torch.zeros(size)], torch.empty(0), keys, start)
    return out.to(torch.int64)


def mask(density: float = 0.5, keys: tuple[int, int] = (KEYS[0], KEYS[1]), size: int = SIZE) -> Tensor:
    return numbers(keys, size) < mask_threshold(density)


def test_keys_are_blake2b_of_seed_tensor_and_expert() -> None:
    for place, key in enumerate(KEYS):
        digest = hashlib.blake2b(f"7\0{NAME}\0{place - 1}".encode(), digest_size=4).digest()
        assert key == int.from_bytes(digest, "little", signed=True)
    assert len(set(KEYS)) == 4
    assert mask_keys(7, NAME, 1) == KEYS[:2], "another expert more changes no key"


def test_golden_numbers() -> None:
    assert KEYS == GOLDEN_KEYS
    assert numbers(size=4).tolist() == GOLDEN_NUMBERS


@pytest.mark.parametrize("start", [0, 1, 12_345, 2**31 - 2, 2**32 - 2, 2**32, 2**33 + 5, 2**40 + 1])
@pytest.mark.parametrize("keys", [(KEYS[0], KEYS[2]), (0, 0), (-1, -1), (2**31 - 1, -(2**31))])
def test_numbers_are_those_of_exact_integer_arithmetic(start: int, keys: tuple[int, int]) -> None:
    assert numbers(keys, 5, start).tolist() == [number(*keys, start + i) for i in range(5)]


def test_numbers_differ_beyond_32_bits_of_index() -> None:
    near, far = numbers(size=1000), numbers(size=1000, start=2**32)
    assert (near == far).sum() <= 1


@pytest.mark.parametrize("start", [0, 17, 2**31 - LONG_BLOCK, 2**32 - LONG_BLOCK - 7])
def test_numbers_do_not_see_the_edges_of_blocks(start: int) -> None:
    size = 2 * LONG_BLOCK + 3000
    whole = numbers(size=size, start=start)
    for first in (1, LONG_BLOCK - 5, LONG_BLOCK, LONG_BLOCK + 1, 2 * LONG_BLOCK + 9):
        assert torch.equal(whole[first : first + 500], numbers(size=500, start=start + first))


def test_the_limit_of_nothing_and_of_everything_is_exact() -> None:
    assert (
        mask_threshold(0.0) == mask_threshold(-0.5) == 0
        and mask_threshold(1.0) == mask_threshold(1.5) == MASK_LEVELS == 2**24
    )
    found = numbers()
    assert found.min() >= 0 and found.max() < MASK_LEVELS
    assert not mask(0.0).any() and mask(1.0).all()
    assert (
        mask_threshold(0.25) == MASK_LEVELS // 4
        and mask_threshold(1 / MASK_LEVELS) == 1
        and mask_threshold(1 - 1 / MASK_LEVELS) == MASK_LEVELS - 1
    )


def test_masks_are_nested_in_the_density() -> None:
    previous = mask(0.0)
    for density in (0.01, 0.3, 0.300001, 0.7, 0.999, 1.0):
        current = mask(density)
        assert not (previous & ~current).any()
        previous = current


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kept_share_is_the_density(density: float, seed: int) -> None:
    tensor, expert = mask_keys(seed, "w", 1)
    kept = mask(density, (tensor, expert)).double().mean().item()
    assert abs(kept - density) < 5 * math.sqrt(density * (1 - density) / SIZE)


def chi2(observed: Tensor) -> float:
    """Standard deviations between the counts' χ² and its mean."""
    expected = SIZE / observed.numel()
    free = observed.numel() - 1
    return (((observed.double() - expected) ** 2 / expected).sum().item() - free) / math.sqrt(2 * free)


def test_numbers_are_uniform_in_every_byte() -> None:
    for shift in (0, 8, 16):
        assert abs(chi2(torch.bincount((numbers() >> shift) & 255, minlength=256))) < 5


def test_seeds_tensors_and_experts_are_independent() -> None:
    """All pairs, by the counts of the 16 × 16 combinations of their top four bits; experts share half of the work."""
    found = {
        (seed, name, expert): numbers((mask_keys(seed, name, 4)[0], mask_keys(seed, name, 4)[1 + expert])) >> 20
        for seed, name in ((7, "w"), (8, "w"), (7, "v"))
        for expert in range(4)
    }
    for one, two in combinations(found, 2):
        assert abs(chi2(torch.bincount(found[one] * 16 + found[two], minlength=256))) < 6, (one, two)


def test_neighbours_and_rows_are_independent() -> None:
    kept = mask().double() - 0.5
    for lag in (1, 2, 7, 64, 1024, 4096):
        correlation = (kept[:-lag] * kept[lag:]).mean().item() / 0.25
        assert abs(correlation) < 5 / math.sqrt(SIZE - lag)
    top = numbers() >> 20
    assert abs(chi2(torch.bincount(top * 16 + top.roll(1), minlength=256))) < 5
