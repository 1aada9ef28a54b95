"""A LoRA adapter as an expert: what it changes at each place of the live model, as peft's live model computes it.

peft wraps modules, not parameters: an adapter on one side of a tied pair leaves the other side as it was, unless the
adapter's file changes it too. `merge_and_unload` differs there, and is not what was trained.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from evomerge.kernels import Factors, Update
from evomerge.models.adapter import Adapter
from evomerge.models.destinations import Destination
from evomerge.models.experts import Base, FullExpert, listed
from evomerge.models.stored import Stored
from evomerge.notices import warn_once


class AdapterExpert:
    """An update of the base's tensors, or of another checkpoint's (`origin`)."""

    def __init__(self, adapter: Adapter, base: Stored, origin: FullExpert | None) -> None:
        self.adapter = adapter
        self._skeleton, self.origin = base.skeleton, origin
        self._stored = origin.stored if origin else base
        paths = {name: self._path(name) for name in adapter.names()}
        self._passed = [name for name, path in paths.items() if not adapter.is_loaded(name, path, self._is_tied(path))]
        # Path → the adapter's name for it
        self._at = {path: name for name, path in paths.items() if name not in self._passed}
        self._copied: dict[str, str] = {}  # path → the adapter's name for a tied one, whose base tensor it brings
        self._alone = self._settle_ties()

    def sha256(self) -> str:
        """SHA-256 of the adapter's weight file."""
        return self.adapter.sha256

    def separate(self, aliases: Mapping[str, str]) -> frozenset[str]:
        """Of the base's tied paths, those that differ from what they are tied to once the adapter is on."""
        return self._alone | (self.origin.separate(aliases) if self.origin else frozenset())

    def touches(self, place: Destination) -> bool:
        """Whether the adapter changes what stands at this place."""
        return self.origin is not None or place.path in self._at or place.path in self._copied

    def nbytes(self, place: Destination) -> int:
        """Bytes that the adapter brings to this place."""
        name = self._at.get(place.path) or self._copied.get(place.path)
        return self.adapter.nbytes(name) if name else 0

    def update(self, place: Destination) -> Update:
        """The adapter's factors for this place, or the whole weight where factors of it do not exist."""
        update = self._change(place.path)
        if self.origin is None:
            return update
        own = self.origin.stored.tensor(place)
        return own if update is None else update.delta().add_(own) if isinstance(update, Factors) else update

    def problems(self, base: Base) -> list[str]:
        """Where the adapter was made for another base."""
        if self.origin and (found := self.origin.problems(base)):
            return found
        paths = {name: self._path(name) for name in self.adapter.names() if name not in self._passed}
        if self._passed:
            which = listed(self._passed)
            warn_once(f"{self.adapter.folder}: passed over, as by peft, whose targets do not select it: {which}")
        outside = [name for name, path in paths.items() if path in base.skeleton.outside]
        if outside:
            more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
            warn_once(f"{self.adapter.folder}: {outside[0]}{more}: outside the language model the base stays as it is")
        shapes = {name: base.skeleton.shape(path) for name, path in paths.items() if path in base.skeleton.paths}
        parted = {place.path for place in base.destination.values() if not place.whole}
        return self.adapter.problems(shapes, ignoring=[*outside, *self._passed]) + [
            f"{name}: the base's files hold this parameter in several parts" for name in paths if paths[name] in parted
        ]

    def _path(self, name: str) -> str:
        """Where the parameter of this name is in the base's model.

        Older versions of transformers named it otherwise, and so does the language model alone of a base that has other
        senses: there the end of the name says which one is meant.
        """
        known = self._skeleton.paths, self._skeleton.outside
        for path in (name, self._skeleton.rules.path(name)):
            if any(path in paths for paths in known):
                return path
        end = "." + name.partition(".")[2]
        alike = [path for path in self._skeleton.parameters if path.endswith(end)]
        return alike[0] if len(alike) == 1 else name

    def _is_tied(self, path: str) -> bool:
        return path in self._skeleton.paths and len(self._skeleton.members(path)) > 1

    def _change(self, path: str) -> Factors | Tensor | None:
        name = self._at.get(path)
        if name is not None:
            # A path that follows another has a base tensor of its own where the base holds the two apart.
            return self.adapter.update(name, lambda other: self._tensor(path if other == name else self._path(other)))
        copied = self._copied.get(path)
        return self.adapter.copied(copied, self._named) if copied else None

    def _named(self, name: str) -> Tensor:
        return self._tensor(self._path(name))

    def _tensor(self, path: str) -> Tensor:
        return self._stored.tensor(Destination(path))

    def _settle_ties(self) -> frozenset[str]:
        """Decide for every tied parameter that is touched which of its paths change alike; returns the others."""
        tied = [path for path in self._at if self._is_tied(path)]
        apart = self._stored.separate(self._skeleton.aliases) if tied else frozenset()
        found: set[str] = set()
        for first in dict.fromkeys(self._skeleton.aliases.get(path, path) for path in tied):
            self._follow(self._skeleton.members(first), apart)
            found |= self._apart([path for path in self._skeleton.members(first) if path not in apart])
        return frozenset(found)

    def _follow(self, members: Sequence[str], apart: Collection[str]) -> None:
        """Paths that the file does not name, and that change with one that it does.

        Trained tokens of the input embedding change the tied paths too, and `ensure_weight_tying` asks for it; peft
        does so even to paths that the base has `apart`. A copy of the base's embedding is loaded into the tensor that
        the others share.
        """
        named = [path for path in members if path in self._at]
        if len(named) == 1 and self.adapter.follows_ties(self._at[named[0]], named[0] == members[0]):
            self._at |= dict.fromkeys(members, self._at[named[0]])
        for name in {self._at[path] for path in named}:
            if self.adapter.copied(name, self._named) is not None:
                self._copied |= {path: name for path in members if path not in self._at and path not in apart}

    def _apart(self, members: list[str]) -> set[str]:
        read = [path for path in members if path not in self._skeleton.unread]
        for path in self._skeleton.unread.intersection(members):
            self._drop(path)
        if read and read[0] in self._at and all(self._alike(path, read[0]) for path in read):
            self._at[members[0]] = self._at[read[0]]
            return set()
        return {path for path in read if not self._alike(path, members[0])}

    def _drop(self, path: str) -> None:
        """Forget what the file says of a path that no forward pass reads, as peft's live model does."""
        name = self._at.pop(path, None)
        if name and not any(other == name for other in self._at.values()):
            warn_once(f"{self.adapter.folder}: the model does not read {name} itself, so this change has no effect")

    def _alike(self, one: str, other: str) -> bool:
        changes = self._change(one), self._change(other)
        if isinstance(changes[0], Factors) and isinstance(changes[1], Factors):
            return self._at[one] == self._at[other] or _same(changes[0], changes[1])
        if isinstance(changes[0], Tensor) and isinstance(changes[1], Tensor):
            return torch.equal(changes[0], changes[1])
        return changes[0] is None and changes[1] is None


def _same(one: Factors, other: Factors) -> bool:
    return one.scale == other.scale and torch.equal(one.up, other.up) and torch.equal(one.down, other.down)
