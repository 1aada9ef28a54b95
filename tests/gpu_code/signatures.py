"""The forms in which methods call the runner: which kernel, on tensors of which dtypes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evomerge import methods
from evomerge.kernels.runner import Kernel, Runner
from evomerge.merging.materializer import Materializer
from evomerge.recipes.recipe import Recipe


@dataclass(frozen=True)
class Signature:
    """All that a compiled form depends on, but the device."""

    kernel: Kernel
    out: torch.dtype
    tensors: tuple[torch.dtype, ...]
    numbers: int
    words: int
    rowwise: bool

    @property
    def label(self) -> str:
        """A short text, unlike those of other signatures."""
        dtypes = ",".join(str(dtype).removeprefix("torch.") for dtype in self.tensors)
        rows = " by rows" if self.rowwise else ""
        return f"{self.kernel}{rows}({dtypes}; {self.numbers}, {self.words}) → {self.out}"

    def arguments(self, shape: Sequence[int], device: str) -> tuple[Tensor, ...]:
        """Empty arguments of the compiled form for tensors of this shape: out, numbers, words and the tensors."""
        numbers = (self.numbers, shape[0], 1) if self.rowwise else (self.numbers,)
        return (
            torch.empty(*shape, dtype=self.out, device=device),
            torch.empty(numbers, device=device),
            torch.empty(self.words, dtype=torch.int32, device=device),
            *(torch.empty(*shape, dtype=dtype, device=device) for dtype in self.tensors),
        )


@dataclass
class Recorder(Runner):
    """A runner without compiler that notes the signature of each call."""

    found: dict[Signature, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def run(
        self,
        kernel: Kernel,
        out: Tensor,
        tensors: Sequence[Tensor],
        numbers: Tensor,
        words: tuple[int, ...] = (),
        start: int = 0,
    ) -> Tensor:
        dtypes = tuple(tensor.dtype for tensor in tensors)
        signature = Signature(kernel, out.dtype, dtypes, len(numbers), 2 + len(words), numbers.ndim == 3)
        self.found[signature] = None
        return super().run(kernel, out, tensors, numbers, words, start)


def signatures(materializer: Materializer, recipe: Recipe, dtype: torch.dtype) -> Iterator[Signature]:
    """Every form that the recipe needs to write a model of this dtype."""
    recorder = Recorder()
    materializer.runner = materializer._rules = recorder
    for _ in materializer.tensors(recipe, dtype):
        pass
    yield from recorder.found


def options(name: str) -> list[dict[str, str]]:
    """The published variants of a method: the default one, then each other value of each option."""
    declared = methods.load(name).OPTIONS
    return [{}, *({key: value} for key, values in declared.items() for value in values[1:])]
