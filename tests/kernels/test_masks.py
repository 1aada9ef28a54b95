"""The counter-based generator against plain integers, and the statistics of its masks."""

import hashlib
import math

import pytest
import torch

from evomerge.kernels.masks import BLOCK, drop_mask, mask_key, uniform32

CPU = torch.device("cpu")
KEY = mask_key(7, "model.layers.0.mlp.up_proj.weight", 0)
GOLDEN_KEY = (1450187702, 1758428932)
GOLDEN_WORDS = [4073827265, 3833266349, 2539674135, 1225636655]
SIZE = 100_000


def mix(x: int) -> int:
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) % 2**32
    x = ((x ^ (x >> 15)) * 0xD35A2D97) % 2**32
    return x ^ (x >> 15)


def word(key: tuple[int, int], index: int) -> int:
    return mix(mix(index % 2**32 ^ key[0]) ^ key[1] ^ index // 2**32)


def mask(key: tuple[int, int] = KEY, density: float = 0.5, size: int = SIZE) -> torch.Tensor:
    return drop_mask(key, density, torch.Size([size]), CPU)


def test_keys_are_blake2b_of_seed_tensor_and_expert() -> None:
    digest = hashlib.blake2b(b"7\0model.layers.0.mlp.up_proj.weight\x000", digest_size=8).digest()
    assert tuple(int.from_bytes(half, "little") for half in (digest[:4], digest[4:])) == KEY


def test_golden_words() -> None:
    assert KEY == GOLDEN_KEY
    assert uniform32(KEY, 0, 4, CPU).tolist() == GOLDEN_WORDS


@pytest.mark.parametrize("start", [0, 1, 12_345, 2**31 - 2, 2**32 - 2, 2**32, 2**33 + 5, 2**40 + 1])
@pytest.mark.parametrize("key", [KEY, (0, 0), (2**32 - 1, 2**32 - 1)])
def test_words_are_those_of_exact_integer_arithmetic(start: int, key: tuple[int, int]) -> None:
    assert uniform32(key, start, start + 5, CPU).tolist() == [word(key, start + i) for i in range(5)]


def test_words_differ_beyond_32_bits_of_index() -> None:
    near, far = uniform32(KEY, 0, 1000, CPU), uniform32(KEY, 2**32, 2**32 + 1000, CPU)
    assert (near == far).sum() <= 1


def test_masks_do_not_see_the_edges_of_blocks() -> None:
    size = BLOCK + 3000
    whole = mask(size=size)
    words = uniform32(KEY, 0, size, CPU)
    assert torch.equal(whole, words < 2**31)
    assert torch.equal(whole[: BLOCK - 10], mask(size=BLOCK - 10))


def test_the_shape_only_folds_the_mask() -> None:
    assert torch.equal(drop_mask(KEY, 0.4, torch.Size([25, 8, 5]), CPU).flatten(), mask(density=0.4, size=1000))
    assert drop_mask(KEY, 0.4, torch.Size([0, 3]), CPU).shape == (0, 3)
    assert drop_mask(KEY, 0.4, torch.Size([]), CPU).shape == ()


def test_masks_are_nested_in_the_density() -> None:
    previous = torch.zeros(SIZE, dtype=torch.bool)
    for density in (0.0, 0.01, 0.3, 0.300001, 0.7, 0.999, 1.0):
        current = mask(density=density)
        assert not (previous & ~current).any()
        previous = current
    assert not mask(density=0.0).any() and mask(density=1.0).all()


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kept_share_is_the_density(density: float, seed: int) -> None:
    kept = mask(mask_key(seed, "w", 0), density).double().mean().item()
    assert abs(kept - density) < 5 * math.sqrt(density * (1 - density) / SIZE)


@pytest.mark.parametrize("other", [(8, "w", 0), (7, "v", 0), (7, "w", 1)], ids=["seed", "tensor", "expert"])
def test_seeds_tensors_and_experts_are_independent(other: tuple[int, str, int]) -> None:
    one, two = mask(mask_key(7, "w", 0)), mask(mask_key(*other))
    both = (one & two).double().mean().item()
    assert abs(both - 0.25) < 5 * math.sqrt(0.25 * 0.75 / SIZE)


def test_neighbours_and_rows_are_independent() -> None:
    kept = mask().double() - 0.5
    for lag in (1, 2, 7, 64, 1024, 4096):
        correlation = (kept[:-lag] * kept[lag:]).mean().item() / 0.25
        assert abs(correlation) < 5 / math.sqrt(SIZE - lag)


def test_words_are_uniform() -> None:
    counts = torch.bincount(uniform32(KEY, 0, SIZE, CPU) >> 24, minlength=256).double()
    expected = SIZE / 256
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)
