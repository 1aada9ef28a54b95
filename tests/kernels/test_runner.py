"""The runner: blocks, element indices, the flag of what is not finite, and a compiler that must change no bit."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from evomerge.kernels.consensus import Elementwise
from evomerge.kernels.lincomb import WeightedSum
from evomerge.kernels.masks import mask_keys
from evomerge.kernels.runner import BLOCK, EAGER_ELEMENTS, Kernel, Runner
from evomerge.kernels.voting import Band, Drop, Keep, Mask, RankDrop, Trim, vote

LONG_BLOCK = BLOCK["cpu"]
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
MIXED = (BF16, FP16, FP32, BF16, FP16)
SIZES = (EAGER_ELEMENTS + 1, 5001, 8192, LONG_BLOCK + 1, 2 * LONG_BLOCK + 3)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compiling() -> Runner:
    """One runner for all tests of this file, so that a kernel is compiled once."""
    return Runner(compiled=True)


def values(size: int, seed: int, dtype: torch.dtype = FP32) -> Tensor:
    """Numbers of many sizes, with zeros of both signs, equal magnitudes and subnormals among them."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(size, generator=generator) * 10 ** (4 * torch.rand(size, generator=generator) - 3)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 1.0, 1e-40, -3e-8, 0.1])
    found[: min(size, 8)] = special[: min(size, 8)]
    return found.to(dtype)


def ran(runner: Runner, kernel: Kernel, tensors: Sequence[Tensor], numbers: Tensor, dtype: torch.dtype, **rest: Any):
    """The output and the flag."""
    out = torch.full_like(tensors[0], float("nan"), dtype=dtype)
    return out, runner.run(kernel, out, tensors, numbers, **rest)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def same(runner: Runner, kernel: Kernel, tensors: Sequence[Tensor], numbers: Tensor, dtype: torch.dtype, **rest: Any):
    """The compiled pass and the plain one agree to the bit, zeros' signs and the flag included; a NaN is a NaN."""
    plain, plain_flag = ran(Runner(), kernel, tensors, numbers, dtype, **rest)
    out, flag = ran(runner, kernel, tensors, numbers, dtype, **rest)
    assert runner.compiled, "the compiler gave up"
    assert bool(flag) == bool(plain_flag) == (not plain.isfinite().all())
    assert torch.equal(out.isnan(), plain.isnan())
    assert torch.equal(bits(out.masked_fill_(out.isnan(), 0.0)), bits(plain.masked_fill_(plain.isnan(), 0.0)))


# --- blocks and indices, without a compiler ---


@pytest.mark.parametrize(
    "size", [0, 1, 5, EAGER_ELEMENTS, LONG_BLOCK - 1, LONG_BLOCK, LONG_BLOCK + 1, 2 * LONG_BLOCK + 3]
)
def test_blocks_change_no_bit(size: int) -> None:
    tensors = [values(size, i, dtype) for i, dtype in enumerate(MIXED[:3])]
    numbers = torch.tensor([0.3, -1.7, 0.1])
    out, flag = ran(Runner(), WeightedSum(update=False), tensors, numbers, BF16)
    assert torch.equal(bits(out), bits(WeightedSum(update=False)(numbers, numbers, tensors).to(BF16)))
    assert flag.shape == () and not flag


@pytest.mark.parametrize("width", [1, 7, LONG_BLOCK + 5])
def test_each_row_has_its_own_numbers(width: int) -> None:
    rows = 2 * LONG_BLOCK // width + 3
    tensors = [values(rows * width, i).view(rows, width) for i in range(2)]
    numbers = values(2 * rows, 9).view(2, rows, 1)
    out, _ = ran(Runner(), WeightedSum(update=False), tensors, numbers, FP32)
    assert torch.equal(out, tensors[0] * numbers[0] + tensors[1] * numbers[1])


def position(numbers: Tensor, words: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """An element's index in the tensor, from the two words of a block's first element."""
    low = torch.arange(tensors[0].numel(), dtype=torch.int32) + words[0]
    return (words[1].double() * 2**32 + (low.long() & 0xFFFFFFFF).double() - numbers[0].double()).float()


@pytest.mark.parametrize("start", [0, 1, 2**31 - 3, 2**32 - 5, 2**32 - LONG_BLOCK, 2**32, 2**33 + 1, 2**40 - 1])
def test_elements_know_their_index(start: int) -> None:
    size = 2 * LONG_BLOCK + 3
    for runner in (Runner(), Runner(compiled=True)):
        runner._compiled = lambda kernel, arguments: position_entry(*arguments)  # type: ignore[method-assign]
        origin = torch.tensor([float(start)], dtype=torch.float64)
        out, _ = ran(runner, position, [torch.zeros(size)], origin, FP32, start=start)
        assert torch.equal(out, torch.arange(size).float())


def position_entry(out: Tensor, numbers: Tensor, words: Tensor, *tensors: Tensor) -> Tensor:
    out.copy_(position(numbers, words, tensors))
    return torch.zeros(())


# --- the flag ---

LAST = {FP16: (65519.99, 65520.0), BF16: (3.3961e38, 3.39618e38)}  # largest that still rounds to a number, smallest not


@pytest.mark.parametrize("size", [1, 5, EAGER_ELEMENTS, EAGER_ELEMENTS + 1, LONG_BLOCK + 1])
@pytest.mark.parametrize("dtype", [FP32, FP16, BF16], ids=str)
def test_one_bad_element_raises_the_flag(size: int, dtype: torch.dtype) -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in {0, size // 2, size - 1}:
            tensor = torch.ones(size)
            assert not ran(Runner(), WeightedSum(update=False), [tensor], torch.ones(1), dtype)[1]
            tensor[place] = bad
            assert ran(Runner(), WeightedSum(update=False), [tensor], torch.ones(1), dtype)[1]


@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_flag_knows_where_rounding_ends_in_infinity(dtype: torch.dtype, sign: int) -> None:
    for value, beyond in zip(LAST[dtype], (False, True), strict=True):
        out, flag = ran(Runner(), WeightedSum(update=False), [torch.tensor([sign * value])], torch.ones(1), dtype)
        assert bool(flag) == beyond == bool(out.isinf())


# --- a stand-in for the compiler ---


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Tensor]]:
    """The compiler, replaced by nothing; the functions that were given to it."""
    given: list[Callable[..., Tensor]] = []

    def compile(function: Callable[..., Tensor], arguments: Any) -> Callable[..., Tensor]:
        given.append(function)
        return function

    monkeypatch.setattr("evomerge.kernels.runner._compile", compile)
    return given


def test_small_tensors_are_not_worth_a_compiler(compiler: list[Callable[..., Tensor]]) -> None:
    runner = Runner(compiled=True)
    for size in (0, 1, EAGER_ELEMENTS // 2, EAGER_ELEMENTS):
        ran(runner, WeightedSum(update=False), [torch.ones(size)], torch.ones(1), FP32)
    assert not compiler
    ran(runner, WeightedSum(update=False), [torch.ones(EAGER_ELEMENTS + 1)], torch.ones(1), FP32)
    assert len(compiler) == 1
    ran(Runner(), WeightedSum(update=False), [torch.ones(EAGER_ELEMENTS + 1)], torch.ones(1), FP32)
    assert len(compiler) == 1


def test_what_a_compiler_would_tell_apart_is_compiled_once_each(compiler: list[Callable[..., Tensor]]) -> None:
    runner, size = Runner(compiled=True), EAGER_ELEMENTS + 1
    for _ in range(3):
        for count in range(1, 13):
            ran(runner, WeightedSum(update=False), [torch.ones(size)] * count, torch.ones(count), FP32)
        for dtypes in product((FP32, FP16, BF16), repeat=2):
            ran(runner, WeightedSum(update=False), [torch.ones(size, dtype=d) for d in dtypes], torch.ones(2), BF16)
        ran(runner, WeightedSum(update=False), [torch.ones(size, 2)] * 2, torch.ones(2, size, 1), FP32)
    assert len(compiler) == 12 + 9 + 1


class Broken:
    """A compiler that is missing, or whose result fails when it is called."""

    def __init__(self, error: Exception, early: bool) -> None:
        self.error, self.early, self.calls = error, early, 0

    def __call__(self, function: Callable[..., Tensor], arguments: Any) -> Callable[..., Tensor]:
        self.calls += 1
        if self.early:
            raise self.error
        return self._fail

    def _fail(self, out: Tensor, *rest: Tensor) -> Tensor:
        out.fill_(7.0)
        raise self.error


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("text", ["no g++\nlong story", ""])
def test_a_broken_compiler_costs_one_warning_and_no_bit(
    early: bool, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(RuntimeError(text), early)
    monkeypatch.setattr("evomerge.kernels.runner._compile", broken)
    runner, tensors = Runner(compiled=True), [values(LONG_BLOCK + 9, i) for i in range(2)]
    numbers = torch.tensor([0.4, 0.7])
    wanted, _ = ran(Runner(), WeightedSum(update=False), tensors, numbers, BF16)
    with caplog.at_level(logging.WARNING):
        found = [ran(runner, WeightedSum(update=False), tensors, numbers, BF16) for _ in range(3)]
    assert all(torch.equal(out, wanted) and not flag for out, flag in found)
    assert broken.calls == 1 and not runner.compiled
    (record,) = caplog.records
    assert record.getMessage() == f"merging without a compiler, which is slower: {'no g++' if text else 'RuntimeError'}"


def test_a_full_device_is_no_broken_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.kernels.runner._compile", Broken(torch.OutOfMemoryError("full"), early=False))
    runner = Runner(compiled=True)
    with pytest.raises(torch.OutOfMemoryError):
        ran(runner, WeightedSum(update=False), [torch.ones(EAGER_ELEMENTS + 1)], torch.ones(1), FP32)
    assert runner.compiled


# --- the compiler itself ---


def test_compiled_sums_give_the_same_bits(compiling: Runner) -> None:
    kernel, numbers = WeightedSum(update=False), torch.tensor([0.3, -1.7, 0.1])
    same(compiling, kernel, [values(EAGER_ELEMENTS + 1, i, d) for i, d in enumerate(MIXED[:3])], numbers, FP16)
    graphs = counters["stats"]["unique_graphs"]
    for size in (*SIZES, 4100, 4113, 12345, 65536):
        tensors = [values(size, i, d) for i, d in enumerate(MIXED[:3])]
        same(compiling, kernel, tensors, numbers, FP16)
        tensors[0] = torch.nn.Parameter(tensors[0].view(-1, 1, 1)).view(-1)
        tensors[1] = torch.cat([tensors[1], tensors[1]])[size:]
        same(compiling, kernel, tensors, numbers, FP16)
    for place, bad in product((0, 5000), (float("nan"), float("inf"), 6.6e4, 65519.0)):
        tensors = [torch.zeros(5001, dtype=d) for d in MIXED[:3]]
        tensors[2][place] = bad
        same(compiling, kernel, tensors, torch.tensor([1.0, 1.0, 1.0]), FP16)
    assert counters["stats"]["unique_graphs"] == graphs, "another size or another view was compiled anew"


@pytest.mark.slow
def test_compiled_bits_do_not_depend_on_the_threads(compiling: Runner, threads: int) -> None:
    for size in SIZES:
        tensors = [values(size, i, d) for i, d in enumerate(MIXED[:3])]
        same(compiling, WeightedSum(update=False), tensors, torch.tensor([0.3, -1.7, 0.1]), FP16)


@pytest.mark.slow
def test_compiled_masks_give_the_same_bits_at_any_index(compiling: Runner) -> None:
    keys = mask_keys(1, "w", 2)
    merged = vote([Drop(0.5), Keep()], [0.5, -0.3], [1.3, 1.0], elect=True, normalize=True, lam=0.7, keys=keys)
    kernel = Elementwise(merged.rule, ("weight", "update"))
    graphs = None
    for size, start in product((EAGER_ELEMENTS + 1, LONG_BLOCK + 1), (0, 3, 2**31 - 9, 2**34 + 1)):
        tensors = [values(size, 0, BF16), values(size, 1, BF16), values(size, 2)]
        numbers, words = torch.tensor(merged.numbers), merged.words
        same(compiling, kernel, tensors, numbers, BF16, words=words, start=start)
        graphs = graphs or counters["stats"]["unique_graphs"]
    tensors[1][-1] = float("nan")
    same(
        compiling, kernel, tensors, numbers, BF16, words=words, start=2**32 - EAGER_ELEMENTS - 1
    )  # cut where the word changes
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", [(FP32,) * 5, (BF16,) * 5, MIXED], ids=["fp32", "bf16", "mixed"])
def test_compiled_sums_of_any_number_of_terms(compiling: Runner, dtypes: tuple[torch.dtype, ...]) -> None:
    for count, update in product(range(6), (False, True)):
        if not count and not update:
            continue
        for size in SIZES:
            tensors = [values(size, i, dtype) for i, dtype in enumerate(dtypes[:count])]
            tensors += [values(size, 9)] if update else []
            same(compiling, WeightedSum(update), tensors, values(count, 20), dtypes[0])


@pytest.mark.slow
def test_compiled_rows_give_the_same_bits(compiling: Runner) -> None:
    for rows, width in ((70, 70), (71, 70), (5000, 1), (1, 5000), (3, 4096), (33, LONG_BLOCK)):
        tensors = [values(rows * width, i, dtype).view(rows, width) for i, dtype in enumerate(MIXED[:3])]
        same(compiling, WeightedSum(update=False), tensors, values(3 * rows, 9).view(3, rows, 1), BF16)


KINDS: dict[str, tuple[Mask, ...]] = {
    "keep": (Keep(), Keep(), Keep()),
    "trim": (Trim(1.0), Keep(), Trim(float("inf"))),
    "band": (Band(0.01, 1.0), Keep(), Band(0.0, 0.1)),
    "drop": (Drop(0.5), Keep(), Drop(0.0)),
    "rank": (RankDrop(0.5, 0.2), Keep(), RankDrop(0.9, 0.1)),
}
RULES = [
    *((True, *rest) for rest in product((True, False), ("unweighted", "weighted"), ("count", "weights"))),
    (False, True, "weighted", "weights"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_compiled_vote_gives_the_same_bits(compiling: Runner, kind: str) -> None:
    for elect, normalize, sign, divisor in RULES if kind == "keep" else RULES[-2:]:
        options: dict[str, Any] = {"elect": elect, "normalize": normalize, "sign": sign, "divisor": divisor}
        merged = vote(KINDS[kind], [0.5, -0.5, 1.3], [1.3, 1.0, 0.7], lam=0.7, keys=mask_keys(1, "w", 3), **options)
        kernel = Elementwise(merged.rule, ("weight", "weight", "update"))
        for size in (EAGER_ELEMENTS + 1, LONG_BLOCK + 1):
            tensors = [values(size, 0, BF16), values(size, 1, BF16), values(size, 2, BF16), values(size, 3)]
            tensors += [torch.randint(0, 256, (size,), dtype=torch.uint8)] if merged.bank else []
            for bad in (None, float("nan"), float("inf")):
                if bad is not None:
                    tensors[2][-1] = bad
                same(compiling, kernel, tensors, torch.tensor(merged.numbers), BF16, words=merged.words, start=2**33)
