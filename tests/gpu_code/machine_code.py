"""PTX and SASS of generated kernels, compiled with the options of the launcher that inductor uses on a real GPU."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import triton
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

NVIDIA = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

# The instructions on floating-point numbers that are IEEE 754's or move bits. All others round or estimate otherwise.
EXACT = re.compile(
    r"""(add|sub|mul|div)\.rn\.f(32|64)      # not "add.f32", which an assembler may fuse with a product
    |(max|min)(\.NaN)?\.f32               # LLVM omits .NaN where it proves that no operand is one
    |(abs|neg)\.(f32|bf16|bf16x2|f16|f16x2)
    |setp(\.\w+)+\.f(32|64)|selp\.f32
    |cvt\.f32\.(bf16|f16)|cvt\.rn\.(bf16|f16)(x2)?\.f32|cvt\.f64\.f32|cvt\.rn\.f32\.(s|u)32
    |(ld|st|mov|shfl|mul24)(\.\w+)*""",
    re.VERBOSE,
)
ON_FLOATS = re.compile(r"\.(bf16x2|bf16|f16x2|f16|f32|f64|ftz|approx|full)\b")


def load(source: str) -> CachingAutotuner:
    """The generated kernel as its launcher, not compiled yet."""
    namespace: dict[str, object] = {"__file__": __file__, "__name__": "generated"}
    with TemporaryDirectory() as folder:
        path = Path(folder, "generated.py")
        path.write_text(source)  # triton reads the text of the function again
        namespace["__file__"] = str(path)
        with patch.object(triton_helpers, "set_driver_to_gpu"):  # there is none
            exec(compile(source, path, "exec"), namespace)
        (found,) = (value for value in namespace.values() if isinstance(value, CachingAutotuner))
        found.fn.raw_src  # noqa: B018, read while the file exists
    return found


def ptx(source: str, arch: int) -> Iterator[str]:
    """The PTX of each configuration among which the launcher chooses by measuring."""
    kernel = load(source)
    for configuration in kernel.configs:
        meta = kernel._create_compile_meta(configuration)
        ast = ASTSource(kernel.fn, meta["signature"], meta["constants"], meta["configs"][0])
        options = kernel._create_compile_options(configuration, meta)
        with patch("triton.backends.nvidia.compiler.CUDABackend.make_cubin", lambda *_: b""):
            yield triton.compile(ast, target=GPUTarget("cuda", arch, 32), options=options).asm["ptx"]


def instructions(text: str) -> set[str]:
    """The distinct instructions of a PTX text."""
    return set(re.findall(r"(?:^|[{;])[ \t]*(?:@!?%p\d+[ \t]+)?([a-z][\w.:]*)[ \t][^;\n]*;", text, re.MULTILINE))


def inexact(text: str) -> set[str]:
    """The instructions on floating-point numbers whose result may differ from that of a CPU."""
    return {name for name in instructions(text) if ON_FLOATS.search(name) and not EXACT.fullmatch(name)}


def sass(text: str, arch: int) -> str:
    """The machine code of a PTX text, assembled as Triton assembles it where products are not fused."""
    with TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(text)
        name = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
        subprocess.run([NVIDIA / "ptxas", "--fmad=false", f"--gpu-name={name}", source, "-o", binary], check=True)
        return subprocess.run([NVIDIA / "nvdisasm", "-c", binary], check=True, capture_output=True, text=True).stdout
