"""A checkpoint's tensors by their destinations in the model that transformers loads from it, including ties.

Ties are decided as in transformers: tied parameters of the architecture are tied, unless the files contain both with
different values. The flag in the configuration does not decide, because transformers keeps a head that the files
contain.
"""

from collections.abc import Mapping

from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.destinations import Destination, covers
from evomerge.models.skeleton import Skeleton


class StoredModel:
    """One checkpoint mapped by its architecture's loading rules; only `untied` and `tensor` read weights."""

    def __init__(self, checkpoint: Checkpoint, skeleton: Skeleton) -> None:
        self.checkpoint, self.skeleton = checkpoint, skeleton
        mapped = skeleton.rules.find(checkpoint, checkpoint.shape)
        self.places = mapped.places
        self.refused = {name: f"{path}: {why}" for name, (path, why) in mapped.refused.items() if self._merges(path)}
        self._names: dict[Destination, str] = {}
        self.parts: dict[str, list[Destination]] = {}  # path of the language model → its stored destinations
        for name, place in mapped.places.items():
            if self._names.setdefault(place, name) == name and self._merges(place.path):
                self.parts.setdefault(place.path, []).append(place)

    def name(self, place: Destination) -> str | None:
        """The stored tensor for this destination, or else that of a tied path; None if there is none."""
        if place in self._names or not place.whole or not self._merges(place.path):
            return self._names.get(place)
        others = (Destination(path) for path in self.skeleton.members(place.path))
        return next((self._names[other] for other in others if other in self._names), None)

    def tensor(self, place: Destination) -> Tensor:
        """The read-only tensor for this destination; ExpertError if the files have none."""
        name = self.name(place)
        if name is None:
            raise ExpertError(f"{self.checkpoint.folder}: {place.path} is not in the weight files")
        return self.checkpoint.tensor(name)

    def has_whole(self, path: str) -> bool:
        """Whether the files contain the whole parameter at this path, not only at a tied path."""
        return path in self.parts and covers(self.parts[path], self.skeleton.shape(path))

    def missing(self) -> list[str]:
        """The parameters that the files do not contain."""
        return [
            path
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
