"""Stored tensors in memory, in place of a checkpoint's files."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

NAMES = {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
}


class InMemory:
    """What a format reads: names, shapes, dtypes and tensors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        return NAMES[self._tensors[name].dtype]

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]
