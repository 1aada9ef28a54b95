"""The machine code of every pass on two architectures: IEEE arithmetic only, so that a GPU gives the bytes of a CPU."""

import functools
import re
from collections.abc import Callable

import pytest
import torch

from evomerge import methods
from evomerge.kernels import runner
from evomerge.kernels.consensus import Elementwise
from evomerge.kernels.lincomb import SUM
from evomerge.kernels.voting import Vote
from evomerge.methods._lines import PerLine
from tests.gpu_code.conftest import DTYPES
from tests.gpu_code.machine_code import inexact, instructions, ptx, sass
from tests.gpu_code.pretended_gpu import Program, generate
from tests.gpu_code.signatures import Signature

pytestmark = pytest.mark.triton
ARCHS = (80, 90)
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
generate_once = functools.cache(generate)
TIES = Elementwise(Vote("trim", True, True, "weighted", "weights"), ("weight",) * 8)
# Forms that no tiny family needs: coefficients for each row or line, several dtypes in one merge, eight experts.
OTHERS = {
    "rows": Signature(SUM, BF16, (BF16, BF16, BF16), 3, 2, rowwise=True),
    "lines": Signature(Elementwise(PerLine("last"), ("weight",) * 2), FP32, (FP32,) * 3, 3 * 64, 4, rowwise=False),
    "columns": Signature(Elementwise(PerLine("first"), ("weight",) * 2), BF16, (BF16,) * 3, 3 * 64, 4, rowwise=False),
    "mixed": Signature(SUM, FP16, (FP32, BF16, FP16), 3, 2, rowwise=False),
    "eight": Signature(TIES, BF16, (BF16,) * 9, 33, 2, rowwise=False),
}


@functools.cache
def compiled(source: str, arch: int) -> list[str]:
    """The PTX of a kernel, whose name is left out: the kernels of the flag are the same in many programs."""
    return list(ptx(source, arch))


def ptx_of(program: Program, arch: int) -> list[str]:
    return [text for source in program.kernels.values() for text in compiled(source, arch)]


def assert_exact(signature: Signature, arch: int) -> None:
    program = generate_once(signature, 90)
    assert set(re.findall(r"'enable_fp_fusion': (\w+)", program.wrapper)) == {"False"}
    texts = ptx_of(program, arch)
    assert any("st.global" in name for text in texts for name in instructions(text)), "no code was read"
    for text in texts:
        assert not inexact(text), signature.label
    # The whole output exists once: the one buffer beside it holds a maximum for each block.
    assert re.findall(r"empty_strided_cuda\(\((.*?)\)", program.wrapper) == [f"{blocks(program)}, ", ""]


def blocks(program: Program) -> int:
    found = re.search(r"empty_strided_cuda\(\((\d+), \)", program.wrapper)
    assert found
    return int(found[1])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", methods.names())
def test_a_method_uses_exact_instructions_only(
    name: str, dtype: str, arch: int, of_method: Callable[[str, str], list[Signature]]
) -> None:
    for signature in of_method(name, dtype):
        assert_exact(signature, arch)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", OTHERS)
def test_other_forms_use_exact_instructions_only(name: str, arch: int) -> None:
    assert_exact(OTHERS[name], arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_machine_code_has_fused_products_only_in_divisions(arch: int) -> None:
    """PTX is not the last step: the assembler is run as Triton runs it, and divides by Newton's method."""
    for name in ("mixed", "rows", "eight"):
        for text in ptx_of(generate_once(OTHERS[name], 90), arch):
            code = sass(text, arch)
            assert "FMUL" in code or "mul.rn.f32" not in text
            assert ("FFMA" in code) == ("div.rn.f32" in text)


def test_without_our_options_products_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above would find, if the options had no effect."""
    monkeypatch.setattr(runner, "CUDA_OPTIONS", {})
    texts = ptx_of(generate(OTHERS["mixed"], 90), 90)
    assert any("fma.rn.f32" in inexact(text) for text in texts)
    texts = ptx_of(generate(OTHERS["eight"], 90), 90)
    assert any("div.full.f32" in inexact(text) for text in texts)
