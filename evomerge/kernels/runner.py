"""Runs an elementwise kernel over whole tensors, either compiled or block by block in eager mode.

Both ways run the same Python function and give the same bytes: neither gcc (inductor passes -ffp-contract=off) nor
Triton (see CUDA_OPTIONS) fuses a product with a sum.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Kernel = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]
Entry = Callable[..., Tensor]

BLOCK = {"cpu": 1 << 16, "cuda": 1 << 24}  # elements per eager step; on a CPU the temporaries fit in a core's cache
CALL_ELEMENTS = 1 << 30  # most elements of a compiled call: compiled indices have 32 bits
EAGER_ELEMENTS = 64  # up to this size an eager pass is as fast as a compiled one
INDEX_SPAN = 1 << 32  # number of elements whose indices share their high 32 bits
# Shapes of traced examples: numbers unlike any other size, and large, because the loops are tuned for them.
EXAMPLE_LENGTH = {"cpu": (1 << 20) + 7, "cuda": (1 << 24) + 43}
EXAMPLE_SHAPE = {"cpu": (1031, 1033), "cuda": (4099, 4111)}
# No buffers for values that are used twice: one fp32 buffer would halve the vector width of a bf16 loop.
CPU_OPTIONS: dict[str, Any] = {
    "realize_reads_threshold": 1 << 20,
    "realize_opcount_threshold": 1 << 20,
    "realize_acc_reads_threshold": 1 << 20,
    "size_asserts": False,
}
# Triton gives the bytes of eager torch: no fused multiply-add, and division rounded to nearest. Values that are used
# twice become nodes of the one kernel, without buffers as long as all of them are fused.
CUDA_OPTIONS: dict[str, Any] = {
    "emulate_precision_casts": True,
    "eager_numerics.division_rounding": True,
    "max_fusion_size": 1 << 10,
    "size_asserts": False,
}
# The smallest fp32 magnitudes that round to infinity: half a unit in the last place above the largest finite number.
OVERFLOW_BOUND = {torch.float16: (2 - 2**-11) * 2.0**15, torch.bfloat16: (2 - 2**-8) * 2.0**127}


class Runner:
    """Runs kernels and caches their compiled forms; a kernel must be hashable."""

    def __init__(self, compiled: bool = False) -> None:
        self.compiled = compiled
        self._entries: dict[tuple[Any, ...], Entry] = {}

    def run(
        self,
        kernel: Kernel,
        out: Tensor,
        tensors: Sequence[Tensor],
        numbers: Tensor,
        words: tuple[int, ...] = (),
        start: int = 0,
    ) -> Tensor:
        """Write kernel(numbers, words, tensors), rounded to its dtype, into `out`; returns 0 if all of it is finite.

        All tensors are flat, or all are [rows, columns] and `numbers` is [k, rows, 1]. The kernel gets `words` after
        the low and the high 32 bits of its first element's index; `start` is the index of the first element of `out`.
        """
        if not out.numel():
            return torch.zeros((), device=out.device)
        small, width = out.numel() <= EAGER_ELEMENTS, 1 if out.ndim == 1 else out.shape[1]
        step = (
            CALL_ELEMENTS if self.compiled and not small else BLOCK.get(out.device.type, BLOCK["cpu"])
        ) // width or 1
        parts = list(_row_slices(out.shape[0], step, start, width))
        if len(parts) == 1:
            return self._call(kernel, small, (out, numbers, index_words(start, words, out.device), *tensors))
        flags = []
        for part in parts:
            part_numbers = numbers[:, part] if numbers.ndim == 3 else numbers
            part_words = index_words(start + part.start * width, words, out.device)
            inputs = (part_numbers, part_words, *(tensor[part] for tensor in tensors))
            flags.append(self._call(kernel, small, (out[part], *inputs)))
        return torch.stack(flags).sum()

    def _call(self, kernel: Kernel, small: bool, arguments: tuple[Tensor, ...]) -> Tensor:
        if not self.compiled or small or arguments[0].numel() > CALL_ELEMENTS:
            return _entry(kernel)(*arguments)
        try:
            return self._compiled(kernel, arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler can be missing or fail in any way; the eager pass gives the same bytes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning("merging without a compiler, which is slower: %s", reason)
            self.compiled = False
            return _entry(kernel)(*arguments)

    def _compiled(self, kernel: Kernel, arguments: tuple[Tensor, ...]) -> Tensor:
        """Run the compiled form for these dtypes, ranks and coefficient counts; the number of elements is dynamic."""
        out, numbers, words, *_ = arguments
        sizes = (out.ndim, numbers.ndim, numbers.shape[0], words.shape[0], torch.get_num_threads())
        key = (kernel, out.device, sizes, *[tensor.dtype for tensor in arguments])
        entry = self._entries.get(key)
        if entry is None:
            with warnings.catch_warnings():  # the compiler's warnings about its own code
                warnings.filterwarnings("ignore", module=r"torch\.")
                entry = _compile(_entry(kernel), arguments)
                entry(*arguments)
            self._entries[key] = entry
        return entry(*arguments)


def _compile(entry: Entry, arguments: tuple[Tensor, ...]) -> Entry:
    """The compiled form of `entry` for tensors of these dtypes and any size up to CALL_ELEMENTS, on this device.

    It bypasses Dynamo and AOTAutograd. Their guards and wrappers take as long per call as the pass over a small tensor,
    and the cache key of `_compiled` already checks what the guards would check. They would also turn the write into an
    argument into a write to a temporary tensor of that size and a copy of it.
    """
    from torch._inductor import config  # slow import, which small models do not need
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    fake_mode = FakeTensorMode(shape_env=ShapeEnv())
    with config.patch(CUDA_OPTIONS if arguments[0].is_cuda else CPU_OPTIONS):
        trace = make_fx(lambda *inputs: (entry(*inputs),), select_decomp_table(), tracing_mode="symbolic")
        graph = trace(*_examples(fake_mode, *arguments))
        with V.set_fake_mode(fake_mode):
            compiled = compile_fx_inner(graph, [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")])
    call = getattr(compiled, "current_callable", None) or compiled  # skips a wrapper that only serves the profiler
    return lambda *inputs: call(list(inputs))[0]


def _examples(fake_mode: Any, out: Tensor, numbers: Tensor, words: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Arguments without storage whose numbers of elements, or of rows and columns, are symbols."""
    kind = "cuda" if out.is_cuda else "cpu"
    example = (EXAMPLE_LENGTH[kind],) if out.ndim == 1 else EXAMPLE_SHAPE[kind]
    shape = fake_mode.from_tensor(torch.empty(example, device="meta")).shape
    coefficients = numbers.shape if numbers.ndim == 1 else (len(numbers), shape[0], 1)
    shapes = (shape, coefficients, words.shape, *(shape for _ in tensors))
    with fake_mode:
        given = zip(shapes, (out, numbers, words, *tensors), strict=True)
        return [torch.empty(size, dtype=like.dtype, device=like.device) for size, like in given]


def _entry(kernel: Kernel) -> Entry:
    def entry(out: Tensor, numbers: Tensor, words: Tensor, *tensors: Tensor) -> Tensor:
        out.copy_(kernel(numbers, words, tensors))
        # The compiler may read back values before they are rounded, so overflow is detected on these.
        return torch.where(out.abs().amax().float() < OVERFLOW_BOUND.get(out.dtype, torch.inf), 0.0, 1.0)

    return entry


def _row_slices(rows: int, step: int, start: int, width: int) -> Iterator[slice]:
    """Slices of at most `step` rows of `width` elements, cut where the high 32 bits of the element index change."""
    first = 0
    while first < rows:
        left = (INDEX_SPAN - (start + first * width) % INDEX_SPAN) // width or 1
        last = min(rows, first + step, first + left)
        yield slice(first, last)
        first = last


@lru_cache(maxsize=1 << 12)
def index_words(index: int, words: tuple[int, ...], device: torch.device) -> Tensor:
    """The int32 words of a kernel: the low and high 32 bits of an element's index, then the given ones."""
    low = ((index & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
    return torch.tensor([low, index >> 32, *words], dtype=torch.int32).to(device, non_blocking=True)
