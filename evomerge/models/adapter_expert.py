"""A LoRA adapter as an expert: its change of each parameter of the live model, equal to that of a model loaded by peft.

peft wraps modules, not parameters. An adapter on one side of a tied pair therefore leaves the other side unchanged,
unless the adapter's file also changes that side. `merge_and_unload` changes both sides, which is not the model that was
trained.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evomerge.kernels import Factors, Update
from evomerge.models.adapter import Adapter
from evomerge.models.adapter_config import MERGE_FIRST
from evomerge.models.base import Base, summary_line
from evomerge.models.dequantised import DequantisedCheckpoint
from evomerge.models.full_expert import FullExpert
from evomerge.models.places import Block, Destination, LiveTensor
from evomerge.models.skeleton import Skeleton
from evomerge.models.stored import StoredModel
from evomerge.models.stored_inputs import StoredInput
from evomerge.notices import warn_once


class AdapterExpert:
    """An adapter of the base, or of another checkpoint (`origin`)."""

    def __init__(self, adapter: Adapter, base: StoredModel, origin: FullExpert | None) -> None:
        self.adapter = adapter
        self._skeleton, self.origin = base.skeleton, origin
        self._stored = origin.stored if origin else base
        _bind(adapter, base.skeleton)
        # The adapter's name of a stored tensor that is a part of a parameter, such as one of stacked experts
        places = ((name, base.places.get(name)) for name in adapter.names())
        self._places = {name: place for name, place in places if place and not place.whole}
        self._parts = {place: name for name, place in self._places.items()}
        paths = {name: self._path(name) for name in adapter.names()}
        self._ignored = [
            name for name, path in paths.items() if not adapter.is_applied(name, path, self._is_tied(path))
        ]
        # Path → the adapter's name of the parameter
        others = {*self._places, *self._ignored}
        self._names = {path: name for name, path in paths.items() if name not in others}
        # Path → the adapter's name of a tied parameter, whose saved base weight replaces the tensor at this path
        self._replaced: dict[str, str] = {}
        self._untied = self._resolve_ties()

    def sha256(self) -> str:
        """SHA-256 of the adapter's weight file, with that of its own base if that is dequantised.

        The dtype of the dequantised weights changes the expert, and the adapter's file does not name the base's files.
        """
        if self.origin is None or not isinstance(self.origin.checkpoint, DequantisedCheckpoint):
            return self.adapter.sha256
        return f"{self.adapter.sha256} on {self.origin.sha256()}"

    def weight_files(self) -> list[Path]:
        """The adapter's file, and those of its own base."""
        return [self.adapter.weight_file, *(self.origin.weight_files() if self.origin else ())]

    def untied(self, aliases: Mapping[str, str]) -> frozenset[str]:
        """The tied paths of the base that are no longer equal to their tied tensors once the adapter is applied."""
        return self._untied | (self.origin.untied(aliases) if self.origin else frozenset())

    def touches(self, place: Destination) -> bool:
        """Whether the adapter may change the tensor at this destination."""
        return self.origin is not None or place in self._parts or bool(self._changed_paths(place))

    def is_computed(self, place: Destination) -> bool:
        """Whether a dense `update` is a new tensor, which is always so."""
        return True

    def nbytes(self, place: Destination) -> int:
        """Bytes of the adapter's tensors for this destination."""
        if name := self._parts.get(place):
            return self.adapter.nbytes(name)
        paths = self._changed_paths(place)
        sizes = {path: self.adapter.nbytes(self._names.get(path) or self._replaced[path]) for path in paths}
        if place.whole:
            return sum(sizes.values())
        shapes = self._skeleton.parameters
        return sum(size * place.numel(path) // math.prod(shapes[path]) for path, size in sizes.items())

    def update(self, place: Destination) -> Update:
        """The adapter's factors for this destination, or the whole weight if the change has no factors."""
        update = self._update(place)
        if self.origin is None:
            return update
        weight = self.origin.stored.tensor(place)
        return weight if update is None else update.delta().add_(weight) if isinstance(update, Factors) else update

    def stored_input(self, place: Destination) -> StoredInput:
        """How `update` follows from the adapter's file."""
        if self.origin is None and not self.touches(place):
            return "base"
        name = self._parts.get(place) or (self._names.get(place.path) if place.whole else None)
        if self.origin is not None or name is None:
            return "computed"
        found = self.adapter.stored_factors(
            name, lambda other: self._stored.tensor(place) if other == name else self._base_weight(other)
        )
        return found or "computed"

    def _changed_paths(self, place: Destination) -> list[str]:
        return [path for path in place.paths if path in self._names or path in self._replaced]

    def _update(self, place: Destination) -> Factors | Tensor | None:
        if name := self._parts.get(place):
            return self.adapter.update(name, self._base_weight)
        if place.whole:
            return self._change(place.path)
        if not self._changed_paths(place):
            return None
        if len(place.blocks) == 1 and (factors := self._block_factors(place.blocks[0])):
            return factors
        return LiveTensor(place, {path: self._weight(path) for path in place.paths}).tensor()

    def _block_factors(self, block: Block) -> Factors | None:
        """The factors of a matrix that is a box of a parameter; None if its change has none."""
        name = self._names.get(block.path)
        stacked = self.adapter.stack_factors(name, block.start[0]) if name and block.dims[0] is None else None
        change, skipped = (stacked, 1) if stacked else (self._change(block.path), 0)
        dims = block.dims[skipped:]
        if not isinstance(change, Factors) or len(dims) != 2 or None in dims:
            return None
        rows, columns = (slice(s, s + n) for s, n in zip(block.start[skipped:], block.size[skipped:], strict=True))
        up, down = change.up[rows], change.down[:, columns]
        return Factors(up, down, change.scale) if dims == (0, 1) else Factors(down.T, up.T, change.scale)

    def _weight(self, path: str) -> Tensor:
        """The whole parameter at this path, in fp32."""
        change = self._change(path)
        if isinstance(change, Tensor):
            return change
        weight = self._tensor(path).float()
        return weight if change is None else change.delta().add_(weight)

    def problems(self, base: Base, axes: Mapping[str, int]) -> list[str]:
        """One line for each way in which the adapter does not fit its checkpoint, or that checkpoint the base.

        `axes` are as in `FullExpert.problems`.
        """
        if self.origin and (problems := self.origin.problems(base, axes)):
            return problems
        paths = {name: self._path(name) for name in self.adapter.names() if name not in self._ignored}
        if self._ignored:
            which = summary_line(self._ignored)
            warn_once(f"{self.adapter.folder}: ignored, as in peft, because target_modules do not select it: {which}")
        outside = [name for name, path in paths.items() if path in base.skeleton.outside]
        if outside:
            more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
            warn_once(
                f"{self.adapter.folder}: {outside[0]}{more}: outside the language model, so this change is ignored"
            )
        own = self._stored.skeleton
        shapes = {name: own.shape(path) for name, path in paths.items() if path in own.paths}
        shapes |= {name: base.stored.shape(place) for name, place in self._places.items()}
        together = [
            f"{name}: the base's files hold this weight together with others; {MERGE_FIRST}"
            for name, path in paths.items()
            if path != name and name not in self._places and base.skeleton.rules.is_converted(name)
        ]
        return together or self.adapter.problems(shapes, ignoring=[*outside, *self._ignored])

    def _path(self, name: str) -> str:
        """The path in the base's model of the parameter with this name in the adapter.

        The names can differ if the adapter was trained with an older version of transformers, or on the language model
        alone of a multimodal base. In the second case the end of the name identifies the parameter.
        """
        known = self._skeleton.paths, self._skeleton.outside
        for path in (name, self._skeleton.rules.path(name)):
            if any(path in paths for paths in known):
                return path
        end = "." + name.partition(".")[2]
        matches = [path for path in self._skeleton.parameters if path.endswith(end)]
        return matches[0] if len(matches) == 1 else name

    def _is_tied(self, path: str) -> bool:
        return path in self._skeleton.paths and len(self._skeleton.members(path)) > 1

    def _change(self, path: str) -> Factors | Tensor | None:
        name = self._names.get(path)
        if name is not None:
            # Where two tied paths have base tensors of their own, the update of each is added to its own.
            return self.adapter.update(
                name, lambda other: self._tensor(path) if other == name else self._base_weight(other)
            )
        replaced = self._replaced.get(path)
        return self.adapter.saved_base_weight(replaced, self._base_weight) if replaced else None

    def _base_weight(self, name: str) -> Tensor:
        return self._stored.tensor(self._places.get(name) or Destination(self._path(name)))

    def _tensor(self, path: str) -> Tensor:
        return self._stored.tensor(Destination(path))

    def _resolve_ties(self) -> frozenset[str]:
        """The tied paths that this adapter changes differently from their first path, for all tied parameters."""
        tied = [path for path in self._names if self._is_tied(path)]
        untied_in_base = self._stored.untied(self._skeleton.aliases) if tied else frozenset()
        untied: set[str] = set()
        for first in dict.fromkeys(self._skeleton.aliases.get(path, path) for path in tied):
            members = self._skeleton.members(first)
            self._add_tied_changes(members, untied_in_base)
            untied |= self._differing([path for path in members if path not in untied_in_base])
        return frozenset(untied)

    def _add_tied_changes(self, members: Sequence[str], untied_in_base: Collection[str]) -> None:
        """Add the changes of paths that the adapter's file does not name but that change with a tied path.

        peft applies trained tokens of the input embedding to all tied paths, also to those that are untied in the base;
        with `ensure_weight_tying` it applies every change of embeddings so. A saved copy of the base's embedding
        replaces the tensor that the tied paths share.
        """
        named = [path for path in members if path in self._names]
        if len(named) == 1 and self.adapter.follows_ties(self._names[named[0]], named[0] == members[0]):
            self._names |= dict.fromkeys(members, self._names[named[0]])
        for name in {self._names[path] for path in named}:
            if self.adapter.saved_base_weight(name, self._base_weight) is not None:
                shared = [path for path in members if path not in self._names and path not in untied_in_base]
                self._replaced |= dict.fromkeys(shared, name)

    def _differing(self, members: list[str]) -> set[str]:
        """The paths of one tied parameter whose change differs from that of its first path."""
        read = [path for path in members if path not in self._skeleton.unread]
        for path in self._skeleton.unread.intersection(members):
            self._drop(path)
        if read and read[0] in self._names and all(self._equal_changes(path, read[0]) for path in read):
            self._names[members[0]] = self._names[read[0]]
            return set()
        return {path for path in read if not self._equal_changes(path, members[0])}

    def _drop(self, path: str) -> None:
        """Drop the change of a path that no forward pass reads: it has no effect in peft's model either."""
        name = self._names.pop(path, None)
        if name and not any(other == name for other in self._names.values()):
            warn_once(f"{self.adapter.folder}: the model does not read {name} itself, so this change has no effect")

    def _equal_changes(self, one: str, other: str) -> bool:
        changes = self._change(one), self._change(other)
        if isinstance(changes[0], Factors) and isinstance(changes[1], Factors):
            return self._names[one] == self._names[other] or _equal_factors(changes[0], changes[1])
        if isinstance(changes[0], Tensor) and isinstance(changes[1], Tensor):
            return torch.equal(changes[0], changes[1])
        return changes[0] is None and changes[1] is None


def _bind(adapter: Adapter, skeleton: Skeleton) -> None:
    """Set the parameters of factors that `target_parameters` selects, which are named by their modules.

    For several parameters of one module peft nests the wrappers: the innermost one is that of the first parameter.
    """
    targets = tuple(f".{target}" for target in adapter.config.get("target_parameters") or ())
    levels: dict[str, list[str]] = {}
    for name in adapter.names():
        module = name.removesuffix(".weight")
        levels.setdefault(module.replace(".base_layer", ""), []).append(name)
    for module, names in levels.items():
        paths = [path for path in skeleton.of_module(module) if f".{path}".endswith(targets)] if targets else []
        if paths == [f"{module}.weight"] or len(paths) != len(names):
            continue
        for name, path in zip(sorted(names, key=len, reverse=True), paths, strict=True):
            adapter.bind(name, path, skeleton.shape(path), path in skeleton.transposed)


def _equal_factors(one: Factors, other: Factors) -> bool:
    return one.scale == other.scale and torch.equal(one.up, other.up) and torch.equal(one.down, other.down)
