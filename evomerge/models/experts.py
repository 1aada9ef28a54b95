"""A base and a full checkpoint as mappings from places of the live model to tensors, whatever their files look like."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evomerge.errors import CandidateError, ExpertError
from evomerge.kernels import Update
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.destinations import Destination
from evomerge.models.live_model import full_config
from evomerge.models.skeleton import skeleton
from evomerge.models.stored import Stored

COMPARED = ("model_type", "num_hidden_layers", "num_layers", "n_layer", "hidden_size", "vocab_size")
# What a configuration may say differently of the same architecture; ties are decided by what is stored.
IDLE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
FLOATS = {"F64", "F32", "F16", "BF16"}
SHOWN = 5


class Base:
    """The base's mergeable tensors under the names of its files, and where in the live model each of them lives.

    `separate` are paths of tied parameters that some model of the family changes on their own: each is a tensor here.
    """

    def __init__(self, stored: Stored, separate: Collection[str], trust_remote_code: bool) -> None:
        self.stored, self.checkpoint, self.skeleton = stored, stored.checkpoint, stored.skeleton
        self.folder, self.trust_remote_code = stored.checkpoint.folder, trust_remote_code
        self.separate = tuple(alias for alias in self.skeleton.aliases if alias in separate)
        self._check_complete()
        self.destination: dict[str, Destination] = {}
        self._source: dict[str, str] = {}  # layout name → stored name
        for path in (*self.skeleton.parameters, *self.separate):
            self._place(path)
        self.parameter = {name: place.path for name, place in self.destination.items()}
        self._check_tensors()
        self.copies = {name: self._copies(name) for name in self.destination}
        used = {*self._source.values(), *(copy for copies in self.copies.values() for copy in copies)}
        self.kept = tuple(name for name in self.checkpoint if name not in used)

    def tensor(self, name: str) -> Tensor:
        """The base's tensor under the name that it has in a merge: read-only by contract."""
        return self.checkpoint.tensor(self._source[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from its header."""
        return self.checkpoint.shape(self._source[name])

    def dtype(self, name: str) -> str:
        """The tensor's safetensors dtype (F32, BF16, …)."""
        return self.checkpoint.dtype(self._source[name])

    def nbytes(self, name: str) -> int:
        """The tensor's bytes in its file."""
        return self.checkpoint.nbytes(self._source[name])

    def tied(self, paths: Collection[str]) -> dict[str, str]:
        """The other paths of those of these parameters that are still tied in this family."""
        aliases = self.skeleton.aliases.items()
        return {alias: first for alias, first in aliases if first in paths and alias not in self.separate}

    def live(self, model: nn.Module) -> dict[str, Tensor]:
        """Name → the storage of the live model that it fills; CandidateError where the two do not belong together."""
        left = dict(model.named_parameters())
        if lost := next((name for name, path in self.parameter.items() if path not in left), None):
            raise CandidateError(f"{lost}: the live model has no parameter {self.parameter[lost]}")
        found = {name: place.view(left[place.path]) for name, place in self.destination.items()}
        for path in left.keys() - set(self.parameter.values()) - self.skeleton.outside - self.skeleton.frozen:
            raise CandidateError(f"{path}: the recipe writes no such parameter, which the live model has")
        return found

    def _place(self, path: str) -> None:
        parts = self.stored.parts.get(path)
        if parts:
            for place in parts:
                name = self.stored.name(place)
                assert name is not None
                self.destination[name], self._source[name] = place, name
        elif source := self.stored.name(Destination(path)):
            # Held under a tied path alone: that name, unless the other path has a tensor of its own here.
            taken = self.stored.places[source].path in (*self.skeleton.parameters, *self.separate)
            name = path if taken else source
            self.destination[name], self._source[name] = Destination(path), source

    def _copies(self, name: str) -> tuple[str, ...]:
        """Other names under which the file holds the same tied tensor."""
        place = self.destination[name]
        if place.path in self.separate:
            return ()
        tied = [path for path in self.skeleton.members(place.path) if path not in self.separate]
        names = (self.stored.name(part) for path in tied for part in self.stored.parts.get(path, ()) if part != place)
        return tuple(copy for copy in names if copy and copy != self._source[name] and place.whole)

    def _check_complete(self) -> None:
        if refused := self.stored.refused:
            name, why = next(iter(refused.items()))
            raise ExpertError(f"{self.folder}: {name}, for {why}; such a tensor cannot be merged yet")
        if missing := self.stored.missing():
            unknown = next((name for name in self.checkpoint if name not in self.stored.places), None)
            hint = (
                f"this architecture does not know {unknown}, which they hold"
                if unknown
                else "save it whole, with its head"
            )
            raise ExpertError(f"{self.folder}: {listed(missing)} not in the weight files; {hint}")

    def _check_tensors(self) -> None:
        for name, place in self.destination.items():
            want, got = self.skeleton.shape(place.path), self.shape(name)
            if place.whole and want != got:
                raise ExpertError(f"{self.folder}: {name} is {list(got)}, config.json wants {list(want)}")
            if self.dtype(name) not in FLOATS:
                raise ExpertError(
                    f"{self.folder}: {name} has dtype {self.dtype(name)}; save the model in floating point"
                )


class FullExpert:
    """A checkpoint as an expert: one dense tensor for each of the base's."""

    def __init__(self, stored: Stored) -> None:
        self.stored, self.checkpoint = stored, stored.checkpoint

    def sha256(self) -> str:
        """SHA-256 over its weight files."""
        return self.checkpoint.sha256

    def separate(self, aliases: Mapping[str, str]) -> frozenset[str]:
        """Of the base's tied paths, those at which this checkpoint has a tensor of its own."""
        return self.stored.separate(aliases)

    def touches(self, place: Destination) -> bool:
        """Any tensor may differ from the base's: only the data could tell."""
        return self.stored.name(place) is not None

    def update(self, place: Destination) -> Update:
        """The dense tensor that stands for the base's at this place."""
        name = self.stored.name(place)
        return self.checkpoint.tensor(name) if name else None

    def nbytes(self, place: Destination) -> int:
        """Bytes that the expert brings to this place."""
        name = self.stored.name(place)
        return self.checkpoint.nbytes(name) if name else 0

    def dtype(self, place: Destination) -> str | None:
        """The safetensors dtype of what it brings to this place."""
        name = self.stored.name(place)
        return self.checkpoint.dtype(name) if name else None

    def problems(self, base: Base) -> list[str]:
        """Where this checkpoint cannot stand beside the base: architecture, shapes, missing and extra tensors."""
        # With the architecture's defaults filled in: an old config.json may lack keys that others write.
        mine = full_config(self.checkpoint.folder, base.trust_remote_code)
        theirs = full_config(base.folder, base.trust_remote_code)
        found = [
            f"{key} {mine.get(key)} (base {theirs.get(key)})"
            for key in COMPARED
            if key in mine and key in theirs and mine[key] != theirs[key]
        ]
        found += [f"{name}, for {why}, cannot be merged yet" for name, why in self.stored.refused.items()]
        found += [problem for name, place in base.destination.items() if (problem := self._problem(base, name, place))]
        return found + [f"{name} extra" for name in self._extra(base)]

    def _problem(self, base: Base, name: str, place: Destination) -> str | None:
        own = self.stored.name(place)
        if own is None:
            return None if place.path in base.skeleton.frozen else f"{name} missing"
        got, want = self.checkpoint.shape(own), base.shape(name)
        if got != want:
            return f"{name} {list(got)} (base {list(want)})"
        return None if (dtype := self.checkpoint.dtype(own)) in FLOATS else f"{name} of dtype {dtype}"

    def _extra(self, base: Base) -> list[str]:
        used = {self.stored.name(place) for place in base.destination.values()} | set(base.checkpoint)
        merged = self.stored.skeleton.parameters
        idle = re.compile("|".join((r"\.rotary_emb\.", *self.stored.skeleton.ignored)))

        def is_extra(name: str) -> bool:
            place = self.stored.places.get(name)
            return place.path in merged and place.path not in base.skeleton.frozen if place else not idle.search(name)

        return [name for name in self.checkpoint if name not in used and is_extra(name)]


def open_stored(folder: Path, trust_remote_code: bool, like: Stored | None = None) -> Stored:
    """The checkpoint in `folder`; `like` lends its skeleton where the configuration means the same architecture."""
    mine = full_config(folder, trust_remote_code)
    same = like is not None and _essence(mine) == _essence(full_config(like.checkpoint.folder, trust_remote_code))
    found = like.skeleton if like and same else skeleton(folder, trust_remote_code)
    return Stored(Checkpoint(folder), found)


def _essence(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in IDLE}


def listed(problems: list[str]) -> str:
    """The first few problems on one line, and how many more there are."""
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more
