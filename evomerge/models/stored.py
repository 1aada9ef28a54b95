"""A checkpoint's tensors by where they live in the model that transformers loads from it, ties included.

What is tied is decided as transformers decides it: by the architecture, unless the files hold both sides with different
values. The configuration's flag alone says nothing: transformers keeps a head that it finds.
"""

from collections.abc import Mapping

from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.destinations import Destination, covers
from evomerge.models.skeleton import Skeleton


class Stored:
    """One checkpoint seen through its architecture's loading rules; `separate` reads weights, all else headers only."""

    def __init__(self, checkpoint: Checkpoint, skeleton: Skeleton) -> None:
        self.checkpoint, self.skeleton = checkpoint, skeleton
        found = skeleton.rules.find(checkpoint, checkpoint.shape)
        self.places = found.places
        self.refused = {name: f"{path}: {why}" for name, (path, why) in found.refused.items() if self._merges(path)}
        self._at: dict[Destination, str] = {}
        self.parts: dict[str, list[Destination]] = {}  # path of the language model → what the file holds of it
        for name, place in found.places.items():
            if self._at.setdefault(place, name) == name and self._merges(place.path):
                self.parts.setdefault(place.path, []).append(place)

    def name(self, place: Destination) -> str | None:
        """The stored tensor that the loaded model has at this place, where a tied one may stand for it."""
        if place in self._at or not place.whole or not self._merges(place.path):
            return self._at.get(place)
        others = (Destination(path) for path in self.skeleton.members(place.path))
        return next((self._at[other] for other in others if other in self._at), None)

    def tensor(self, place: Destination) -> Tensor:
        """What the loaded model has at this place, aliasing the page cache; ExpertError where the file has nothing."""
        name = self.name(place)
        if name is None:
            raise ExpertError(f"{self.checkpoint.folder}: {place.path} is not in the weight files")
        return self.checkpoint.tensor(name)

    def holds(self, path: str) -> bool:
        """Whether the file itself has all of what stands at this path."""
        return path in self.parts and covers(self.parts[path], self.skeleton.shape(path))

    def missing(self) -> list[str]:
        """Parameters that the loaded model would not have from this file."""
        return [
            path
            for path in self.skeleton.parameters
            if path not in self.skeleton.frozen and not any(map(self.holds, self.skeleton.members(path)))
        ]

    def separate(self, aliases: Mapping[str, str]) -> frozenset[str]:
        """Of paths that an architecture ties to others, those at which this checkpoint has a tensor of its own."""
        places = ((alias, Destination(alias), Destination(first)) for alias, first in aliases.items())
        return frozenset(alias for alias, own, tied in places if not self._same(own, tied))

    def _same(self, one: Destination, other: Destination) -> bool:
        names = self.name(one), self.name(other)
        return names[0] == names[1] or bool(names[0] and names[1] and self.checkpoint.same(names[0], names[1]))

    def _merges(self, path: str) -> bool:
        return path in self.skeleton.parameters or path in self.skeleton.aliases
