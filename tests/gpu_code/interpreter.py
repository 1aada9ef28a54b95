"""Runs generated programs on the memory of the CPU, by Triton's interpreter: the process needs TRITON_INTERPRET=1."""

import contextlib
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._inductor.runtime import triton_helpers, triton_heuristics
from triton.runtime import interpreter
from triton.runtime.interpreter import ReduceOps

from tests.gpu_code.pretended_gpu import Program

KINDS = ("pointwise", "reduction", "persistent_reduction")
BLOCKS = {"XBLOCK": 256, "R0_BLOCK": 64}


class Interpreted:
    """A generated kernel with the launcher's method `run`; `meta` is what inductor tells the launcher."""

    def __init__(self, function: Any, meta: dict[str, Any]) -> None:
        self._function, self._names = function, list(meta["triton_meta"]["signature"])

    def run(self, *arguments: Any, stream: int) -> None:
        named = dict(zip(self._names, arguments, strict=False))
        blocks = {name: size for name, size in BLOCKS.items() if name in self._names}
        grid = (-(-named["xnumel"] // blocks["XBLOCK"]),)
        self._function[grid](**named, **blocks)


def interpret(program: Program, arguments: Sequence[Tensor]) -> Tensor:
    """Run a program on tensors of the CPU, the first of which it writes; returns its flag."""
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(patch.object(triton_heuristics, kind, _keep))
        stack.enter_context(patch.object(triton_helpers, "set_driver_to_gpu"))
        stack.enter_context(patch.object(ReduceOps, "generic_reduce", _maximum))
        stack.enter_context(patch.object(interpreter, "_convert_float", _convert))
        stack.enter_context(np.errstate(all="ignore"))
        kernels = {name: _kernel(source, Path(folder, f"{name}.py")) for name, source in program.kernels.items()}
        namespace: dict[str, Any] = {
            **kernels,
            "torch": types.SimpleNamespace(
                cuda=types.SimpleNamespace(_DeviceGuard=contextlib.nullcontext, set_device=lambda _: None),
                **{name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")},
            ),
            "empty_strided_cuda": lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype),
            "get_raw_stream": lambda device: 0,
            "copy_if_misaligned": lambda tensor: tensor,
        }
        start, end = program.wrapper.index("class Runner"), program.wrapper.index("runner = Runner")
        exec(program.wrapper[start:end], namespace)
        (flag,) = namespace["Runner"]([]).call(list(arguments))
    return flag


def _maximum(self: ReduceOps, inputs: Sequence[Any]) -> list[Any]:
    """A block's maximum, NaN first, by numpy: the interpreter would call inductor's function for each element."""
    assert self.combine_fn.fn.__name__ == "maximum"
    return [self.min_max(inputs[0], val_reduce_op=np.max)]


def _convert(values: Any, source: Any, target: Any, rounding: Any) -> Any:
    """Between bfloat16 and fp32, rounded to nearest as on a GPU; the interpreter truncates."""
    assert {str(source), str(target)} == {"bf16", "fp32"}
    values = np.ascontiguousarray(values)
    if str(source) == "fp32":
        return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    return torch.from_numpy(values).view(torch.bfloat16).float().numpy()


def _keep(**meta: Any) -> Callable[[Any], Interpreted]:
    return lambda function: Interpreted(function, meta)


def _kernel(source: str, path: Path) -> Interpreted:
    path.write_text(source)  # the interpreter reads the text of the function
    namespace: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
    exec(compile(source, path, "exec"), namespace)
    (kernel,) = (value for value in namespace.values() if isinstance(value, Interpreted))
    return kernel
