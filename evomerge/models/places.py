"""Places of stored tensors in a live model: whole parameters, or boxes of them with their dimensions in another order.

A box of a parameter is filled by an equally large box of a stored tensor: an expert's matrix is one index of a stacked
parameter, a gate and an up projection are halves of a joined one, and a stored tensor that transformers splits has a
box in each of several parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from evomerge.models.checkpoint import Shape
from evomerge.models.groups import shift_layer


@dataclass(frozen=True)
class Block:
    """A box of the parameter at `path`, and the box of a stored tensor that fills it."""

    path: str
    start: Shape  # where the box begins in the parameter
    size: Shape  # its size, by the parameter's dimensions
    dims: tuple[int | None, ...]  # the stored tensor's dimension for each of the parameter's; None: an index of a stack
    origin: Shape  # where the box begins in the stored tensor
    step: Shape  # from one index of the box to the next in the stored tensor, for rows that transformers interleaves

    @property
    def extent(self) -> Shape:
        """The size of the box by the stored tensor's dimensions."""
        return tuple(self.size[self.dims.index(dim)] for dim in range(len(self.origin)))

    @property
    def numel(self) -> int:
        """The number of its elements."""
        return math.prod(self.size)

    def view(self, parameter: Tensor) -> Tensor:
        """The box of a tensor of the parameter's shape, with the stored tensor's dimensions."""
        for dim, (start, length) in enumerate(zip(self.start, self.size, strict=True)):
            if length != parameter.shape[dim]:
                parameter = parameter.narrow(dim, start, length)
        return self.to_stored(parameter)

    def to_stored(self, box: Tensor) -> Tensor:
        """The box with the stored tensor's dimensions instead of the parameter's; a view."""
        for dim in reversed(range(len(self.dims))):
            if self.dims[dim] is None:
                box = box.select(dim, 0)
        order = [dim for dim in self.dims if dim is not None]
        return box if order == sorted(order) else box.permute([order.index(dim) for dim in range(len(order))])

    def from_stored(self, part: Tensor) -> Tensor:
        """The box with the parameter's dimensions instead of the stored tensor's; a view."""
        return part.permute([dim for dim in self.dims if dim is not None]).reshape(self.size)

    def part(self, stored: Tensor) -> Tensor:
        """The box of the stored tensor."""
        ranges = zip(self.origin, self.extent, self.step, strict=True)
        return stored[tuple(slice(start, start + length * step, step) for start, length, step in ranges)]

    def narrowed(self, dim: int, start: int, length: int) -> "Block | None":
        """The part of the box within a range of one dimension of the parameter; None if there is none."""
        first, last = max(self.start[dim], start), min(self.start[dim] + self.size[dim], start + length)
        if first >= last:
            return None
        origin, stored_dim = self.origin, self.dims[dim]
        if stored_dim is not None:
            origin = put(origin, stored_dim, origin[stored_dim] + (first - self.start[dim]) * self.step[stored_dim])
        return replace(self, start=put(self.start, dim, first), size=put(self.size, dim, last - first), origin=origin)

    def within(self, box: "Block") -> "Block | None":
        """The part of the box that lies in the parameter's box of another block; None if there is none."""
        found: Block | None = self
        for dim, (start, length) in enumerate(zip(box.start, box.size, strict=True)):
            found = found and found.narrowed(dim, start, length)
        return found


@dataclass(frozen=True)
class Destination:
    """A whole parameter or buffer of the live model, or the boxes of parameters that a stored tensor fills.

    `path` is the first parameter. Two stored tensors of different models belong together if their destinations are
    equal.
    """

    path: str
    blocks: tuple[Block, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the stored tensor is the whole parameter or buffer."""
        return not self.blocks

    @property
    def paths(self) -> tuple[str, ...]:
        """The parameters that the stored tensor fills, wholly or in part."""
        return tuple(dict.fromkeys(block.path for block in self.blocks)) or (self.path,)

    @property
    def key(self) -> str:
        """A name for random numbers: the parameter's path, and the start of the first box in it."""
        return self.path if self.whole else f"{self.path}{list(self.blocks[0].start)}"

    def shifted(self, stack: str, offset: int) -> "Destination":
        """The destination of the same tensor `offset` layers deeper in its stack."""
        blocks = (replace(block, path=shift_layer(block.path, stack, offset)) for block in self.blocks)
        return Destination(shift_layer(self.path, stack, offset), tuple(blocks))

    def numel(self, path: str) -> int:
        """The number of elements of the parameter at `path` that boxes fill."""
        return sum(block.numel for block in self.blocks if block.path == path)

    def gradient(self, path: str, gradient: Tensor) -> Tensor:
        """The gradient with respect to the stored tensor, from that of the parameter at `path`.

        It is zero where the stored tensor fills other parameters, so the sum over its paths is the whole gradient.
        """
        blocks = [block for block in self.blocks if block.path == path]
        if len(blocks) == len(self.blocks) <= 1:
            return blocks[0].view(gradient) if blocks else gradient
        joined = gradient.new_zeros(self.shape)
        for block in blocks:
            block.part(joined).copy_(block.view(gradient))
        return joined

    @cached_property
    def shape(self) -> Shape:
        """The stored tensor's shape, of a destination with boxes."""
        ends = [
            [start + (length - 1) * step + 1 for start, length, step in zip(b.origin, b.extent, b.step, strict=True)]
            for b in self.blocks
        ]
        return tuple(map(max, zip(*ends, strict=True)))


class Place(Protocol):
    """The place of one stored tensor in the memory of a model that is live."""

    @property
    def dtype(self) -> torch.dtype:
        """The live model's dtype."""

    @property
    def shape(self) -> Shape:
        """The stored tensor's shape."""

    @property
    def direct(self) -> Tensor | None:
        """The live storage as one contiguous tensor of the stored shape; None if it is not one."""

    def copy_(self, tensor: Tensor) -> None:
        """Write the stored tensor's values into the live model."""

    def tensor(self) -> Tensor:
        """The values in the stored tensor's shape."""


class LiveTensor:
    """The place of one stored tensor among the parameters of a live model, which are given by their paths."""

    def __init__(self, place: Destination, parameters: Mapping[str, Tensor]) -> None:
        self._place = place
        boxes = (block.view(parameters[block.path]) for block in place.blocks)
        self._views = tuple(boxes) or (parameters[place.path],)

    @property
    def dtype(self) -> torch.dtype:
        """The live model's dtype."""
        return self._views[0].dtype

    @property
    def shape(self) -> Shape:
        """The stored tensor's shape."""
        return self._place.shape if self._place.blocks else tuple(self._views[0].shape)

    @property
    def direct(self) -> Tensor | None:
        """The live storage as one contiguous tensor of the stored shape; None if it is not one."""
        (first, *more) = self._views
        return first if not more and first.is_contiguous() else None

    def copy_(self, tensor: Tensor) -> None:
        """Write the stored tensor's values into the live model."""
        for view, part in zip(self._views, self._parts(tensor), strict=True):
            view.copy_(part)

    def tensor(self) -> Tensor:
        """The values in the stored tensor's shape: the live storage itself where it is one view, else a copy."""
        if len(self._views) == 1:
            return self._views[0]
        joined = self._views[0].new_empty(self.shape)
        for view, part in zip(self._views, self._parts(joined), strict=True):
            part.copy_(view)
        return joined

    def _parts(self, tensor: Tensor) -> list[Tensor]:
        return [block.part(tensor) for block in self._place.blocks] or [tensor]


def whole_block(path: str, shape: Shape) -> Block:
    """The box that is the whole parameter."""
    start = (0,) * len(shape)
    return Block(path, start, shape, tuple(range(len(shape))), start, (1,) * len(shape))


def put(values: Shape, place: int, value: int) -> Shape:
    """The values with another one at one place."""
    return (*values[:place], value, *values[place + 1 :])
