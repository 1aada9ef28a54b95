"""Generated kernels, run by Triton's interpreter on the memory of the CPU, give the bytes of the plain pass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evomerge import methods
from evomerge.kernels.consensus import Elementwise
from evomerge.kernels.lincomb import SUM
from evomerge.kernels.runner import _entry, index_words
from evomerge.methods._lines import PerLine
from tests.gpu_code.conftest import DTYPES
from tests.gpu_code.interpreter import interpret
from tests.gpu_code.pretended_gpu import generate
from tests.gpu_code.signatures import Signature

pytestmark = pytest.mark.triton
SIZE, START = 1567, 2**33 + 2**31 - 700  # the low word of an index changes its sign within the block
BF16, FP32 = torch.bfloat16, torch.float32


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers of many sizes, with zeros of both signs, subnormals and rounding ties among them; bytes for a bank."""
    generator = torch.Generator().manual_seed(seed)
    if not dtype.is_floating_point:
        return torch.randint(0, 2 if dtype == torch.bool else 256, shape, generator=generator).to(dtype)
    found = torch.randn(shape, generator=generator) * 10 ** (4 * torch.rand(shape, generator=generator) - 3)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 1.0, 1e-40, -3e-8, 1.00390625])
    found.view(-1)[:8] = special
    return found.to(dtype)


def words(signature: Signature) -> Tensor:
    rule = signature.kernel.rule if isinstance(signature.kernel, Elementwise) else None
    if isinstance(rule, PerLine):
        return index_words(0, (29, signature.numbers // signature_lines(signature)), torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    more = torch.randint(0, 1 << 24, (signature.words - 2,), generator=generator)
    return index_words(START, tuple(more.tolist()), torch.device("cpu"))


def signature_lines(signature: Signature) -> int:
    assert isinstance(signature.kernel, Elementwise)
    return 1 + len(signature.kernel.kinds)


def assert_same(signature: Signature, bad: float | None = None) -> None:
    shape = (31, 53) if signature.rowwise else (SIZE,)
    tensors = [values(shape, dtype, seed) for seed, dtype in enumerate(signature.tensors)]
    if bad is not None:
        tensors[0].view(-1)[SIZE // 2] = bad
    numbers = values((signature.numbers, shape[0], 1) if signature.rowwise else (max(8, signature.numbers),), FP32, 99)
    numbers = numbers if signature.rowwise else numbers[: signature.numbers].clone()
    plain, out = (torch.full(shape, 7.0, dtype=signature.out) for _ in range(2))
    wanted = _entry(signature.kernel)(plain, numbers, words(signature), *tensors)
    flag = interpret(generate(signature, 90), (out, numbers, words(signature), *tensors))
    assert bool(flag) == bool(wanted), signature.label
    assert torch.equal(out.isnan(), plain.isnan()), signature.label
    same = [one.masked_fill(one.isnan(), 0.0).view(torch.uint8) for one in (out, plain)]
    assert torch.equal(*same), signature.label


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", methods.names())
def test_a_method_gives_the_bytes_of_the_cpu(
    name: str, dtype: str, of_method: Callable[[str, str], list[Signature]]
) -> None:
    for signature in of_method(name, dtype):
        assert_same(signature)


@pytest.mark.parametrize("along", ["rows", "lines", "columns"])
def test_coefficients_per_line_give_the_bytes_of_the_cpu(along: str) -> None:
    if along == "rows":
        assert_same(Signature(SUM, BF16, (BF16, BF16), 2, 2, rowwise=True))
        return
    rule = PerLine("last" if along == "lines" else "first")
    lines = -(-SIZE // 29) if along == "lines" else 29
    assert_same(Signature(Elementwise(rule, ("weight", "weight")), BF16, (BF16,) * 3, 3 * lines, 4, rowwise=False))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_flag_is_that_of_the_cpu(bad: float) -> None:
    for out in DTYPES.values():
        assert_same(Signature(SUM, out, (FP32, out), 2, 2, rowwise=False), bad)
