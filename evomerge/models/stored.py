"""A checkpoint's tensors by their destinations in the model that transformers loads from it, including ties.

Ties are decided as in transformers: tied parameters of the architecture are tied, unless the files contain both with
different values. The flag in the configuration does not decide, because transformers keeps a head that the files
contain.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.checkpoint import Checkpoint, Shape, itemsize
from evomerge.models.destinations import covers
from evomerge.models.places import Block, Destination, whole_block
from evomerge.models.skeleton import Skeleton


class StoredModel:
    """One checkpoint mapped by its architecture's loading rules; only `untied` and `tensor` read weights."""

    def __init__(self, checkpoint: Checkpoint, skeleton: Skeleton) -> None:
        self.checkpoint, self.skeleton = checkpoint, skeleton
        mapped = skeleton.rules.find(checkpoint, checkpoint.shape)
        self.places = mapped.places
        self.absent = {path: name for path, name in mapped.absent.items() if self._merges(path)}
        self.unplaced = mapped.unplaced
        self.refused = {name: f"{path}: {why}" for name, (path, why) in mapped.refused.items() if self._merges(path)}
        self._refused_paths = {path for path, _ in mapped.refused.values()}
        self._names: dict[Destination, str] = {}
        self.parts: dict[str, list[Destination]] = {}  # path of the language model → its stored destinations
        for name, place in mapped.places.items():
            if self._names.setdefault(place, name) == name and all(map(self._merges, place.paths)):
                for path in place.paths:
                    self.parts.setdefault(path, []).append(place)

    def name(self, place: Destination) -> str | None:
        """The stored tensor for this destination, or else that of a tied path; None if there is none."""
        if place in self._names or not place.whole or not self._merges(place.path):
            return self._names.get(place)
        others = (Destination(path) for path in self.skeleton.members(place.path))
        return next((self._names[other] for other in others if other in self._names), None)

    def is_faulty(self, place: Destination) -> bool:
        """Whether a parameter of this destination lacks a stored tensor, or is converted in an unknown way."""
        return any(path in self.absent or path in self._refused_paths for path in place.paths)

    def shape(self, place: Destination) -> Shape:
        """The shape of the tensor for this destination, which the files contain."""
        if name := self.name(place):
            return self.checkpoint.shape(name)
        return place.shape if place.blocks else self.skeleton.shape(place.path)

    def nbytes(self, place: Destination) -> int:
        """Bytes of the tensor for this destination, 0 if the files lack it."""
        if name := self.name(place):
            return self.checkpoint.nbytes(name)
        names = self.names(place)
        return math.prod(self.shape(place)) * itemsize(self.checkpoint.dtype(names[0])) if names else 0

    def names(self, place: Destination) -> tuple[str, ...]:
        """The stored tensors of which the tensor for this destination consists; none if the files lack a part of it.

        Usually one. The tensors that transformers stacks or joins may be stored apart in one model and together in
        another.
        """
        if name := self.name(place):
            return (name,)
        boxes = self._boxes(place)
        filled = sum(part.numel for box in boxes for _, part in self._parts_of(box))
        if not boxes or filled != sum(box.numel for box in boxes):
            return ()
        return tuple(dict.fromkeys(name for box in boxes for name, _ in self._parts_of(box)))

    def tensor(self, place: Destination) -> Tensor:
        """The read-only tensor for this destination; ExpertError if the files have none."""
        if name := self.name(place):
            return self.checkpoint.tensor(name)
        names = self.names(place)
        if not names:
            raise ExpertError(f"{self.checkpoint.folder}: {place.path} is not in the weight files")
        return self._assembled(place, self.checkpoint.tensor(names[0]).dtype)

    def _assembled(self, place: Destination, dtype: torch.dtype) -> Tensor:
        """The tensor for a destination whose parts are stored otherwise: a view if it is a part of one, else a copy."""
        boxes = self._boxes(place)
        if len(boxes) == 1 and (source := self._names.get(Destination(boxes[0].path))):
            return boxes[0].view(self.checkpoint.tensor(source))
        joined = torch.empty(place.shape if place.blocks else self.skeleton.shape(place.path), dtype=dtype)
        for box in boxes:
            for name, part in self._parts_of(box):
                target = box.within(part)
                assert target is not None
                stored = part.part(self.checkpoint.tensor(name))
                target.part(joined).copy_(target.to_stored(part.from_stored(stored)))
        return joined

    def _boxes(self, place: Destination) -> tuple[Block, ...]:
        """The boxes of parameters that a destination consists of; none for a buffer or a tied parameter."""
        if place.blocks:
            return place.blocks
        shape = self.skeleton.parameters.get(place.path)
        return (whole_block(place.path, shape),) if shape and place.path in self.parts else ()

    def _parts_of(self, box: Block) -> Iterator[tuple[str, Block]]:
        """The stored tensors with the parts of the box that they fill."""
        for place in self.parts.get(box.path, ()):
            for block in self._boxes(place):
                part = block.within(box) if block.path == box.path else None
                if part is not None:
                    yield self._names[place], part

    def has_whole(self, path: str) -> bool:
        """Whether the files contain the whole parameter at this path, not only at a tied path."""
        return path in self.parts and covers(self.parts[path], path, self.skeleton.shape(path))

    def missing(self) -> list[str]:
        """The parameters that the files do not contain, or a tensor's name where a parameter lacks but some."""
        return [
            self.absent.get(path, path)
            for path in self.skeleton.parameters
            if path not in self.skeleton.frozen and not any(map(self.has_whole, self.skeleton.members(path)))
        ]

    def untied(self, aliases: Mapping[str, str]) -> frozenset[str]:
        """Of the tied paths in `aliases`, those at which this checkpoint has a tensor with other values."""
        pairs = ((alias, Destination(alias), Destination(first)) for alias, first in aliases.items())
        return frozenset(alias for alias, one, other in pairs if not self._equal(one, other))

    def _equal(self, one: Destination, other: Destination) -> bool:
        names = self.name(one), self.name(other)
        return names[0] == names[1] or bool(names[0] and names[1] and self.checkpoint.equal(names[0], names[1]))

    def _merges(self, path: str) -> bool:
        return path in self.skeleton.parameters or path in self.skeleton.aliases
