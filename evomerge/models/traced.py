"""Follows stored tensors through the operations by which transformers converts them when it loads a checkpoint.

The operations run on tensors without data, which know for each box of their elements the stored tensor that it comes
from. The place of a stored tensor is therefore that of transformers' own code, or unknown if it uses another function
than those here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from evomerge.models.checkpoint import Shape
from evomerge.models.places import Block, put, whole_block

MAX_PIECES = 8  # of a dimension that is split in two
Piece = tuple[str, Block]  # a stored name with a box, whose start is that in the traced tensor


class MismatchError(ValueError):
    """Tensors that are stacked or joined have shapes that do not fit together."""


class Traced:
    """A tensor of this shape that consists of boxes of stored tensors."""

    def __init__(self, shape: Shape, pieces: Sequence[Piece]) -> None:
        self.shape, self.pieces = shape, pieces

    @classmethod
    def stored(cls, name: str, shape: Shape) -> "Traced":
        """The stored tensor of this name."""
        return cls(shape, [(name, whole_block("", shape))])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _FUNCTIONS:
            raise NotImplementedError(str(func))
        return _FUNCTIONS[func](*args, **(kwargs or {}))

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def contiguous(self) -> "Traced":
        """The tensor itself: the order of elements in memory is not traced."""
        return self

    def transpose(self, dim0: int, dim1: int) -> "Traced":
        """The tensor with two dimensions exchanged."""
        return _transpose(self, dim0, dim1)

    def reshape(self, *sizes: Any) -> "Traced":
        """The tensor with one dimension split in two, or with two joined; NotImplementedError for other changes."""
        shape = tuple(sizes[0] if len(sizes) == 1 else sizes)
        dim = next((i for i, pair in enumerate(zip(shape, self.shape, strict=False)) if pair[0] != pair[1]), None)
        if dim is not None and shape == (*self.shape[:dim], *shape[dim : dim + 2], *self.shape[dim + 1 :]):
            return _split_dim(self, dim, shape)
        if dim is not None and self.shape == (*shape[:dim], *self.shape[dim : dim + 2], *shape[dim + 1 :]):
            return _joined_dims(self, dim, shape)
        raise NotImplementedError(f"reshape {self.shape} {shape}")

    def narrow(self, dim: int, start: int, length: int) -> "Traced":
        """A range of one dimension."""
        found = ((name, block.narrowed(dim, start, length)) for name, block in self.pieces)
        pieces = [(name, replace(b, start=put(b.start, dim, b.start[dim] - start))) for name, b in found if b]
        return Traced(put(self.shape, dim, length), pieces)


def _stack(tensors: Sequence[Traced], dim: int = 0) -> Traced:
    _require_equal(tensor.shape for tensor in tensors)

    def insert(values: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return (*values[:dim], value, *values[dim:])

    pieces = [
        (name, replace(b, start=insert(b.start, i), size=insert(b.size, 1), dims=insert(b.dims, None)))
        for i, tensor in enumerate(tensors)
        for name, b in tensor.pieces
    ]
    return Traced(insert(tensors[0].shape, len(tensors)), pieces)


def _cat(tensors: Sequence[Traced], dim: int = 0) -> Traced:
    _require_equal(put(tensor.shape, dim, 0) for tensor in tensors)
    pieces: list[Piece] = []
    offset = 0
    for tensor in tensors:
        pieces += [(name, replace(b, start=put(b.start, dim, b.start[dim] + offset))) for name, b in tensor.pieces]
        offset += tensor.shape[dim]
    return Traced(put(tensors[0].shape, dim, offset), pieces)


def _transpose(tensor: Traced, dim0: int, dim1: int) -> Traced:
    order = list(range(tensor.ndim))
    order[dim0], order[dim1] = order[dim1], order[dim0]

    def permute(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(values[dim] for dim in order)

    pieces = [
        (name, replace(b, start=permute(b.start), size=permute(b.size), dims=permute(b.dims)))
        for name, b in tensor.pieces
    ]
    return Traced(permute(tensor.shape), pieces)


def _split_dim(tensor: Traced, dim: int, shape: Shape) -> Traced:
    """One dimension as two, of which the second is short: each of its indices is a box with a step."""
    inner, pieces = shape[dim + 1], list[Piece]()
    for name, b in tensor.pieces:
        stored = b.dims[dim]
        if stored is None or inner > MAX_PIECES or b.start[dim] % inner or b.size[dim] % inner:
            raise NotImplementedError(f"reshape {tensor.shape} {shape}")

        def insert(values: Shape, outer: int, index: int) -> Shape:
            return (*values[:dim], outer, index, *values[dim + 1 :])

        for index in range(inner):
            first = b.origin[stored] + index * b.step[stored]
            box = replace(
                b,
                start=insert(b.start, b.start[dim] // inner, index),
                size=insert(b.size, b.size[dim] // inner, 1),
                dims=(*b.dims[: dim + 1], None, *b.dims[dim + 1 :]),
                origin=put(b.origin, stored, first),
                step=put(b.step, stored, b.step[stored] * inner),
            )
            pieces.append((name, box))
    return Traced(shape, pieces)


def _joined_dims(tensor: Traced, dim: int, shape: Shape) -> Traced:
    """Two dimensions as one, of boxes with a single index in the first."""
    pieces: list[Piece] = []
    for name, b in tensor.pieces:
        if b.dims[dim] is not None or b.size[dim] != 1:
            raise NotImplementedError(f"reshape {tensor.shape} {shape}")
        start = b.start[dim] * tensor.shape[dim + 1] + b.start[dim + 1]
        box = replace(
            b,
            start=(*b.start[:dim], start, *b.start[dim + 2 :]),
            size=(*b.size[:dim], *b.size[dim + 1 :]),
            dims=(*b.dims[:dim], *b.dims[dim + 1 :]),
        )
        pieces.append((name, box))
    return Traced(shape, pieces)


def _split(tensor: Traced, sizes: int | Sequence[int], dim: int = 0) -> tuple[Traced, ...]:
    total = tensor.shape[dim]
    lengths = [min(sizes, total - at) for at in range(0, total, sizes)] if isinstance(sizes, int) else list(sizes)
    if sum(lengths) != total:
        raise MismatchError(f"{total} rows for {sum(lengths)}")
    return tuple(tensor.narrow(dim, sum(lengths[:i]), length) for i, length in enumerate(lengths))


def _chunk(tensor: Traced, chunks: int, dim: int = 0) -> tuple[Traced, ...]:
    return _split(tensor, -(-tensor.shape[dim] // chunks), dim)


def _require_equal(shapes: Iterable[Shape]) -> None:
    (first, *others) = dict.fromkeys(shapes)
    if others:
        raise MismatchError(f"shapes {list(first)} and {list(others[0])}")


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.stack: _stack,
    torch.cat: _cat,
    torch.transpose: _transpose,
    torch.split: _split,
    torch.chunk: _chunk,
}
