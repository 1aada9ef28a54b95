"""FP8 with scales of every shape that is published, against a loop over blocks."""

import pytest
import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.quantised import fbgemm_fp8, fp8
from tests.models.quantised.stored import InMemory

BLOCK = (4, 8)


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)


def unpacked(tensors: dict[str, Tensor], block: tuple[int, int] | None = BLOCK) -> Tensor:
    found = fp8.packed({"weight_block_size": block}, InMemory(tensors))["a.weight"]
    assert set(found.inputs) == set(tensors) and found.shape == tensors["a.weight"].shape
    return found.unpack()


@pytest.mark.parametrize("shape", [(8, 16), (9, 17), (3, 5), (2, 8, 16)])
def test_blocks_may_be_cut_at_the_edges(shape: tuple[int, ...]) -> None:
    weight = floats(*shape)
    grid = (*shape[:-2], -(-shape[-2] // BLOCK[0]), -(-shape[-1] // BLOCK[1]))
    scales = torch.rand(grid) + 0.1
    right = weight.float()
    for row in range(grid[-2]):
        for column in range(grid[-1]):
            rows, columns = slice(4 * row, 4 * row + 4), slice(8 * column, 8 * column + 8)
            right[..., rows, columns] *= scales[..., row : row + 1, column : column + 1]
    assert torch.equal(unpacked({"a.weight": weight, "a.weight_scale_inv": scales}), right)


@pytest.mark.parametrize("scale", [torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([[0.5]])])
def test_one_scale_for_a_tensor(scale: Tensor) -> None:
    stored = {"a.weight": floats(6, 10), "a.weight_scale_inv": scale, "a.activation_scale": torch.tensor(2.0)}
    assert torch.equal(unpacked(stored, None), stored["a.weight"].float() * 0.5)


def test_scales_may_be_exponents() -> None:
    stored = {"a.weight": floats(4, 16), "a.weight_scale_inv": torch.tensor([[126, 130]], dtype=torch.uint8)}
    factors = torch.tensor([0.5] * 8 + [8.0] * 8)
    assert torch.equal(unpacked(stored), stored["a.weight"].float() * factors)


def test_fbgemm_has_a_scale_for_each_row() -> None:
    tensors = {"a.weight": floats(3, 4), "a.weight_scale": torch.tensor([[1.0], [2.0], [0.5]])}
    found = fbgemm_fp8.packed({}, InMemory(tensors))["a.weight"].unpack()
    assert torch.equal(found, tensors["a.weight"].float() * tensors["a.weight_scale"])


@pytest.mark.parametrize(
    ("weight", "scales", "line"),
    [
        (floats(6, 10), torch.ones(4, 3), r"a\.weight: \[6, 10\] cannot be divided into blocks for scales of \[4, 3\]"),
        (floats(6), torch.ones(2), r"a\.weight: FP8 of shape \[6\] with scales of \[2\] is not known"),
        (torch.ones(6, 10, dtype=torch.int8), torch.ones(1), "a\\.weight: I8, not FP8"),
    ],
)
def test_what_does_not_fit_is_named(weight: Tensor, scales: Tensor, line: str) -> None:
    with pytest.raises(ExpertError, match=line):
        unpacked({"a.weight": weight, "a.weight_scale_inv": scales})
