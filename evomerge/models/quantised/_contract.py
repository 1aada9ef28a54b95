"""What a format of quantised weights offers, and what it gets."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from evomerge.errors import ExpertError

Shape = tuple[int, ...]
Settings = Mapping[str, Any]  # `quantization_config` of config.json


class Stored(Protocol):
    """The stored tensors of a checkpoint; all but `tensor` read headers alone."""

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, name: object) -> bool: ...
    def shape(self, name: str) -> Shape: ...
    def dtype(self, name: str) -> str: ...
    def tensor(self, name: str) -> Tensor: ...


def require(stored: Stored, weight: str, *parts: str) -> None:
    """ExpertError if a tensor that belongs to a packed weight is not stored."""
    if missing := next((name for name in parts if name not in stored), None):
        raise ExpertError(f"{weight}: {missing} is not beside it in the weight files; download the model again")


@dataclass(frozen=True)
class Packed:
    """One dense tensor: its shape, the stored tensors that it replaces, and a function that computes it.

    `unpack` returns the values in the dtype in which the format's own package computes them.
    """

    shape: Shape
    inputs: tuple[str, ...]
    unpack: Callable[[], Tensor]


class Format(Protocol):
    """The module of a format. Both functions raise ExpertError for a variant that they do not know."""

    def describe(self, settings: Settings) -> str:
        """The name of the variant for messages and recipes, such as `bitsandbytes nf4`."""
        ...

    def packed(self, settings: Settings, stored: Stored) -> Mapping[str, Packed]:
        """Name of each dense tensor → how it follows from the stored ones; other stored tensors are dense already."""
        ...
