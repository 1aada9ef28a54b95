"""Runs an elementwise kernel over whole tensors: compiled where that pays, block by block where it does not.

Both ways run the same Python function and give the same bytes: products are never fused with sums, neither by gcc
(inductor passes -ffp-contract=off) nor by Triton (see CUDA).
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Kernel = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]
Entry = Callable[..., Tensor]

BLOCK = {"cpu": 1 << 16, "cuda": 1 << 24}  # elements of a plain pass: on a CPU the temporaries stay in a core's cache
CHUNK = 1 << 30  # element indices of one call fit in 32 bits
SMALL = 64  # up to here a plain pass is as fast
HIGH = 1 << 32  # elements that share the high word of their index
LONG, WIDE = (1 << 20) + 7, 1031  # an example's sizes, like no other size and large enough for every thread
# Plain torch's bytes from Triton too: no fused multiply-add, and a division that rounds.
CUDA: dict[str, Any] = {"emulate_precision_casts": True, "eager_numerics.division_rounding": True}
# A value that is used twice is no buffer of its own: one fp32 buffer makes the whole loop half as wide as bf16 can be.
ONE_EXPRESSION = {
    "realize_reads_threshold": 1 << 20,
    "realize_opcount_threshold": 1 << 20,
    "realize_acc_reads_threshold": 1 << 20,
    "size_asserts": False,
}
# The first fp32 magnitudes that round to infinity: halfway from the largest number to the next that there would be.
OVERFLOW = {torch.float16: (2 - 2**-11) * 2.0**15, torch.bfloat16: (2 - 2**-8) * 2.0**127}


class Runner:
    """Holds the compiled form of every kernel that was run; a kernel must be hashable."""

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
        """Write kernel(numbers, words, tensors), rounded, into `out`; returns a scalar that is 0 where all is finite.

        All tensors are flat, or all [rows, columns] with `numbers` [k, rows, 1]. The kernel's words are preceded by the
        low and the high word of its first element's index, which counts from `start`.
        """
        if not out.numel():
            return torch.zeros((), device=out.device)
        small, width = out.numel() <= SMALL, 1 if out.ndim == 1 else out.shape[1]
        step = (CHUNK if self.compiled and not small else BLOCK.get(out.device.type, BLOCK["cpu"])) // width or 1
        parts = list(_parts(out.shape[0], step, start, width))
        if len(parts) == 1:
            return self._call(kernel, small, (out, numbers, _words(start, words, out.device), *tensors))
        flags = []
        for part in parts:
            own = numbers[:, part] if numbers.ndim == 3 else numbers
            prefixed = _words(start + part.start * width, words, out.device)
            flags.append(self._call(kernel, small, (out[part], own, prefixed, *(tensor[part] for tensor in tensors))))
        return torch.stack(flags).sum()

    def _call(self, kernel: Kernel, small: bool, arguments: tuple[Tensor, ...]) -> Tensor:
        if not self.compiled or small:
            return _entry(kernel)(*arguments)
        try:
            return self._compiled(kernel, arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler can be missing or fail in any way; the plain pass gives the same bytes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning("merging without a compiler, which is slower: %s", reason)
            self.compiled = False
            return _entry(kernel)(*arguments)

    def _compiled(self, kernel: Kernel, arguments: tuple[Tensor, ...]) -> Tensor:
        """One entry for whatever a compiled function depends on, save the number of elements."""
        out, numbers, words, *_ = arguments
        sizes = (out.ndim, numbers.ndim, numbers.shape[0], words.shape[0], torch.get_num_threads())
        key = (kernel, out.device.type, sizes, *[tensor.dtype for tensor in arguments])
        entry = self._entries.get(key)
        if entry is None:
            with warnings.catch_warnings():  # the compiler's own, about its own code
                warnings.filterwarnings("ignore", module=r"torch\.")
                entry = _compile(_entry(kernel), arguments)
                entry(*arguments)
            self._entries[key] = entry
        return entry(*arguments)


def _compile(entry: Entry, arguments: tuple[Tensor, ...]) -> Entry:
    """The compiled form of `entry` for tensors of these dtypes and any size.

    On a CPU without Dynamo and AOTAutograd: the guards and wrappers that they put before each call take as long as a
    small tensor's pass, and here the caller's key says all that they would. Nor do they see a write into an argument as
    one, and without it the pass over the elements and their maximum would be two passes, each with all of the work.
    """
    if arguments[0].device.type != "cpu":
        found = torch.compile(entry, dynamic=True, fullgraph=True, options=CUDA)
        # What a tensor is a view of would be compiled in, and whether it takes part in a gradient.
        return lambda *inputs: found(*(tensor.detach() for tensor in inputs))
    from torch._inductor import config  # seconds to import, which a small model never needs
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V
    from torch.fx.experimental.proxy_tensor import make_fx

    trace = make_fx(lambda *inputs: (entry(*inputs),), select_decomp_table(), tracing_mode="symbolic")
    graph = trace(*_examples(*arguments))
    traced = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    with V.set_fake_mode(traced[0].fake_mode), config.patch(ONE_EXPRESSION):
        compiled = compile_fx_inner(graph, traced)
    call = getattr(compiled, "current_callable", None) or compiled  # past what only looks for a profiler
    return lambda *inputs: call(list(inputs))[0]


def _examples(out: Tensor, numbers: Tensor, words: Tensor, *tensors: Tensor) -> Iterator[Tensor]:
    """Arguments of the same dtypes whose sizes equal no other number in the trace."""
    shape = (LONG,) if out.ndim == 1 else (WIDE, WIDE + 2)
    yield torch.empty(shape, dtype=out.dtype)
    yield numbers if numbers.ndim == 1 else numbers[:, :1].expand(-1, WIDE, -1).contiguous()
    yield words
    yield from (torch.empty(shape, dtype=tensor.dtype) for tensor in tensors)


def _entry(kernel: Kernel) -> Entry:
    def entry(out: Tensor, numbers: Tensor, words: Tensor, *tensors: Tensor) -> Tensor:
        out.copy_(kernel(numbers, words, tensors))
        # A compiler may have skipped the rounding of what it reads back, so the bound is on the unrounded side.
        return torch.where(out.abs().amax().float() < OVERFLOW.get(out.dtype, torch.inf), 0.0, 1.0)

    # A code object of its own: Dynamo keeps its variants by code object and refuses more than a few of one.
    return FunctionType(entry.__code__.replace(), entry.__globals__, "entry", None, entry.__closure__)


def _parts(rows: int, step: int, start: int, width: int) -> Iterator[slice]:
    """Up to `step` rows of `width` elements each, cut where the high word of the elements' index changes."""
    first = 0
    while first < rows:
        left = (HIGH - (start + first * width) % HIGH) // width or 1
        last = min(rows, first + step, first + left)
        yield slice(first, last)
        first = last


@lru_cache(maxsize=1 << 12)
def _words(index: int, words: tuple[int, ...], device: torch.device) -> Tensor:
    low = ((index & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
    return torch.tensor([low, index >> 32, *words], dtype=torch.int32).to(device, non_blocking=True)
