"""Where vLLM puts each tensor of a checkpoint: learnt by loading blank tensors and recording the copies.

vLLM fuses, splits and pads parameters by code of each architecture. That code runs here once, with tensors whose memory
identifies them, while every copy from them is recorded instead of made. No table of architectures is needed.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from evomerge.errors import ConfigError

Shape = tuple[int, ...]
Load = Callable[[Iterable[tuple[str, Tensor]]], object]
PADDED = ("embed", "lm_head", "wte", "output")  # tables that vLLM pads to more rows than the vocabulary has
CASTS = (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)


@dataclass(frozen=True)
class Copy:
    """A part of a stored tensor, as sizes, strides and offset in it, and the part of the model that it is copied to."""

    size: Shape
    stride: Shape
    offset: int
    target: Tensor

    def of(self, stored: Tensor) -> Tensor:
        """The part of a contiguous tensor of the stored shape; a view."""
        return stored.as_strided(self.size, self.stride, stored.storage_offset() + self.offset)


class RecordedPlace:
    """The parts of a live model that one stored tensor is copied to; see `Place`."""

    def __init__(self, shape: Shape, copies: Iterable[Copy]) -> None:
        self.shape, self._copies = shape, tuple(copies)

    @property
    def dtype(self) -> torch.dtype:
        """The live model's dtype."""
        return self._copies[0].target.dtype

    @property
    def direct(self) -> Tensor | None:
        """The live storage if the tensor is copied as it is to one contiguous place; else None."""
        (first, *more) = self._copies
        as_it_is = first.size == self.shape and first.stride == contiguous_stride(self.shape)
        return first.target if not more and as_it_is and first.target.is_contiguous() else None

    def copy_(self, tensor: Tensor) -> None:
        """Write the stored tensor's values, contiguous, into the live model."""
        for copy in self._copies:
            copy.target.copy_(copy.of(tensor))

    def tensor(self) -> Tensor:
        """The values in the stored tensor's shape; the live storage itself where that has this shape."""
        if (direct := self.direct) is not None:
            return direct
        joined = self._copies[0].target.new_empty(self.shape)
        for copy in self._copies:
            copy.of(joined).copy_(copy.target)
        return joined


def record_places(model: nn.Module, load: Load, shapes: Mapping[str, Shape]) -> dict[str, RecordedPlace]:
    """Stored name → its places in `model`, whose loader `load` takes (name, tensor) pairs; no weight is written.

    ConfigError that names a stored tensor that the loader does not copy whole, or a parameter that it does not fill.
    """
    dtype = next(model.parameters()).dtype
    blank = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    with torch.no_grad(), _Recorder(blank) as recorder:
        load(iter(blank.items()))
    for name, tensor in blank.items():
        copied = sum(math.prod(copy.size) for copy in recorder.copies.get(name, ()))
        if not copied or copied % tensor.numel():
            raise ConfigError(
                f"{name}: vLLM's loader does not copy it whole ({copied} of {tensor.numel()} values); "
                "set scorer.generation=loop"
            )
    _refuse_unfilled(model, [copy.target for copies in recorder.copies.values() for copy in copies])
    return {name: RecordedPlace(tuple(shapes[name]), recorder.copies[name]) for name in shapes}


def contiguous_stride(shape: Shape) -> Shape:
    """The strides of a contiguous tensor."""
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


class _Recorder(TorchDispatchMode):
    """Records copies from tensors that are known by their storage, and follows casts of whole tensors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies: dict[str, list[Copy]] = {}
        self._names = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors.items()}
        self._kept: list[Tensor] = []  # casts, so that their addresses are not used again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default and (name := self._name(args[1])):
            target, source = args[0], args[1].expand_as(args[0])
            part = Copy(tuple(source.shape), source.stride(), source.storage_offset(), target)
            self.copies.setdefault(name, []).append(part)
            return target
        result = func(*args, **(kwargs or {}))
        if func in CASTS and (name := self._name(args[0])) and _is_whole(args[0]) and _is_whole(result):
            self._names[result.untyped_storage().data_ptr()] = name
            self._kept.append(result)
        return result

    def _name(self, tensor: Tensor) -> str | None:
        return self._names.get(tensor.untyped_storage().data_ptr()) if isinstance(tensor, Tensor) else None


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is its whole storage, in order."""
    return tensor.is_contiguous() and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _refuse_unfilled(model: nn.Module, targets: Iterable[Tensor]) -> None:
    """ConfigError for a parameter of which a part is filled by no tensor, apart from the padding of a table."""
    filled: dict[int, int] = {}
    for target in targets:
        storage = target.untyped_storage().data_ptr()
        filled[storage] = filled.get(storage, 0) + target.numel()
    for name, parameter in _parameters(model):
        count = filled.get(parameter.untyped_storage().data_ptr(), 0)
        if count < parameter.numel() and not (count and any(word in name for word in PADDED)):
            raise ConfigError(
                f"vLLM's parameter {name} has {parameter.numel() - count} values that no tensor of the base fills; "
                "set scorer.generation=loop"
            )


def _parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.numel():
            yield name, parameter.data
