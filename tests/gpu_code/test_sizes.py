"""Tensors of more than 2³¹ elements, and how many forms are compiled, without a GPU or memory for them."""

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from evomerge import methods
from evomerge.kernels.consensus import Elementwise
from evomerge.kernels.lincomb import SUM
from evomerge.kernels.runner import CALL_ELEMENTS, Runner
from evomerge.kernels.voting import Vote
from evomerge.methods._lines import PerLine
from tests.gpu_code.pretended_gpu import Program, generate, pretended_gpu, run
from tests.gpu_code.signatures import Signature

pytestmark = pytest.mark.triton
BF16 = torch.bfloat16
FLAT = Signature(SUM, BF16, (BF16, BF16), 2, 2, rowwise=False)
ROWS = Signature(SUM, BF16, (BF16, BF16), 2, 2, rowwise=True)
LINES = Signature(Elementwise(PerLine("last"), ("weight",)), BF16, (BF16, BF16), 2 * 64, 4, rowwise=False)
DROP = Signature(
    Elementwise(Vote("drop", True, True, "weighted", "weights"), ("weight",)), BF16, (BF16,) * 2, 3, 5, False
)
BLOCKS = 1 << 20  # more elements than a block of Triton has, whose indices may exceed the size by one block
HUGE = {
    "flat": (FLAT, (2**31 + 5,), 3),
    "two words": (FLAT, (2**32 + 2**30 + 1,), 6),
    "rows": (ROWS, (2**20, 2**12), 4),
    "one row": (ROWS, (3, 2**30), 3),
}


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of elements of each compiled call."""
    found: list[int] = []
    compiled = Runner._compiled

    def noted(self: Runner, kernel: object, arguments: tuple[Tensor, ...]) -> Tensor:
        found.append(arguments[0].numel())
        return compiled(self, kernel, arguments)

    monkeypatch.setattr(Runner, "_compiled", noted)
    yield found


@pytest.mark.parametrize("name", HUGE)
def test_a_compiled_call_has_indices_of_32_bits(name: str, sizes: list[int]) -> None:
    signature, shape, calls = HUGE[name]
    with pretended_gpu(90) as programs:
        run(Runner(compiled=True), signature, shape)
    assert len(programs) == 1, "another size was compiled anew"
    assert len(sizes) == calls and sum(sizes) == torch.Size(shape).numel()
    assert max(sizes) <= CALL_ELEMENTS and CALL_ELEMENTS + BLOCKS < 2**31
    assert "'xnumel': 'i32'" in programs[0].wrapper


def test_a_row_beyond_32_bits_is_not_compiled(sizes: list[int]) -> None:
    with pretended_gpu(90) as programs:
        out, numbers, _, *tensors = ROWS.arguments((2, 2**31), "cuda")
        Runner(compiled=True).run(SUM, out, tensors, numbers)
    assert not sizes and not programs


@pytest.mark.parametrize("signature", [LINES, DROP], ids=["lines", "drop"])
def test_the_index_in_the_whole_tensor_has_64_bits(signature: Signature) -> None:
    """A rule gets the two words of a block's first element; an index of 32 bits within the block is not enough."""
    with pretended_gpu(90) as programs:
        run(Runner(compiled=True), signature, (2**32 + 2**30,))
    (program,) = programs
    assert "'xnumel': 'i32'" in program.wrapper
    assert ("tl.int64" in program.wrapper) == (signature is LINES), "masks use both words, each of 32 bits"


def test_the_code_depends_on_no_size() -> None:
    codes = [_text(generate(FLAT, 90, shape)) for shape in ((65,), (4096,), (2**28 + 1,))]
    assert len(set(codes)) == 1


def _text(program: Program) -> str:
    return re.sub(r"^# .*$", "", program.wrapper, flags=re.MULTILINE)  # comments hold paths of files


@pytest.mark.parametrize("name", methods.names())
def test_a_recipe_needs_few_forms(name: str, of_method: Callable[[str, str], list[Signature]]) -> None:
    """Tensors of a Llama have forms in common, whatever their size: at most one for weights and two for adapters."""
    variants = 1 + sum(len(values) - 1 for values in methods.load(name).OPTIONS.values())
    assert 1 <= len(of_method(name, "bfloat16")) <= 4 * variants
