"""A base as a mapping from names and destinations in the live model to tensors, for every file layout."""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from torch import Tensor, nn

from evomerge.errors import CandidateError, ExpertError
from evomerge.models.checkpoint import Shape
from evomerge.models.places import Destination, LiveTensor
from evomerge.models.stored import StoredModel

FLOAT_DTYPES = {"F64", "F32", "F16", "BF16"}
MAX_PROBLEMS = 5


class Base:
    """The base's mergeable tensors, by their names in its files, with their destinations in the live model.

    `untied` are paths of tied parameters that some model of the family changes separately. Each has its own tensor
    here, named by its path if the files do not contain it.
    """

    def __init__(self, stored: StoredModel, untied: Collection[str], trust_remote_code: bool) -> None:
        self.stored, self.checkpoint, self.skeleton = stored, stored.checkpoint, stored.skeleton
        self.folder, self.trust_remote_code = stored.checkpoint.folder, trust_remote_code
        self.untied = tuple(alias for alias in self.skeleton.aliases if alias in untied)
        self._merged_rows: Mapping[str, Callable[[], Tensor]] = {}
        self._tables: dict[str, Tensor] = {}
        self._check_complete()
        self.destination: dict[str, Destination] = {}
        self._source: dict[str, str] = {}  # name → stored name
        for path in (*self.skeleton.parameters, *self.untied):
            self._place(path)
        self.parameter = {name: place.path for name, place in self.destination.items()}
        self._check_tensors()
        self.copies = {name: self._copies(name) for name in self.destination}
        used = {*self._source.values(), *(copy for copies in self.copies.values() for copy in copies)}
        self.unmerged = tuple(name for name in self.checkpoint if name not in used)

    def with_rows(self, shapes: Mapping[str, Shape], tables: Mapping[str, Callable[[], Tensor]]) -> "Base":
        """The same base with other rows: `shapes` by path, and by name the functions that compute the tensors."""
        changed = copy.copy(self)
        changed.skeleton = replace(self.skeleton, parameters={**self.skeleton.parameters, **shapes})
        changed._merged_rows, changed._tables = tables, {}
        return changed

    @property
    def parameter_count(self) -> int:
        """The number of weights of the live model, from shapes."""
        return sum(map(math.prod, self.skeleton.parameters.values()))

    def tensor(self, name: str) -> Tensor:
        """The base's tensor of this name; it must not be written to."""
        if name not in self._merged_rows:
            return self.stored_tensor(name)
        if name not in self._tables:  # only the last table is kept
            self._tables = {name: self._merged_rows[name]()}
        return self._tables[name]

    def has_merged_rows(self, name: str) -> bool:
        """Whether the tensor is computed from the files' rows."""
        return name in self._merged_rows

    def stored_tensor(self, name: str) -> Tensor:
        """The tensor with the rows of the base's files."""
        return self.checkpoint.tensor(self._source[name])

    def stored_name(self, name: str) -> str:
        """The name under which the base's files contain the tensor."""
        return self._source[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from its header."""
        if name in self._merged_rows:
            return self.skeleton.shape(self.parameter[name])
        return self.checkpoint.shape(self._source[name])

    def dtype(self, name: str) -> str:
        """The tensor's safetensors dtype (F32, BF16, …)."""
        return self.checkpoint.dtype(self._source[name])

    def nbytes(self, name: str) -> int:
        """The tensor's bytes in its file."""
        return self.checkpoint.nbytes(self._source[name])

    def tied(self, paths: Collection[str]) -> dict[str, str]:
        """Alias → path, for the aliases of these parameters that are still tied in this family."""
        aliases = self.skeleton.aliases.items()
        return {alias: first for alias, first in aliases if first in paths and alias not in self.untied}

    def live_tensors(self, model: nn.Module) -> dict[str, LiveTensor]:
        """Name → the place in the live model that the tensor fills; CandidateError if they do not match."""
        parameters = dict(model.named_parameters())
        written = {path: name for name, place in self.destination.items() for path in place.paths}
        if missing := next((path for path in written if path not in parameters), None):
            raise CandidateError(f"{written[missing]}: the live model has no parameter {missing}")
        places = {name: LiveTensor(place, parameters) for name, place in self.destination.items()}
        if wrong := next((name for name in self._merged_rows if places[name].shape != self.shape(name)), None):
            found = list(places[wrong].shape)
            raise CandidateError(f"{wrong}: the live model has {found}, the recipe writes {list(self.shape(wrong))}")
        for path in parameters.keys() - written.keys() - self.skeleton.outside - self.skeleton.frozen:
            raise CandidateError(f"{path}: the recipe writes no such parameter, which the live model has")
        return places

    def _place(self, path: str) -> None:
        parts = self.stored.parts.get(path)
        if parts:
            for place in parts:
                name = self.stored.name(place)
                assert name is not None
                self.destination[name], self._source[name] = place, name
        elif source := self.stored.name(Destination(path)):
            # The tensor may be stored under a tied path. Its name is then the stored one, unless that path is untied.
            taken = self.stored.places[source].path in (*self.skeleton.parameters, *self.untied)
            name = path if taken else source
            self.destination[name], self._source[name] = Destination(path), source

    def _copies(self, name: str) -> tuple[str, ...]:
        """Other names under which the files contain the same tied tensor."""
        place = self.destination[name]
        if not place.whole or place.path in self.untied:
            return ()
        tied = [path for path in self.skeleton.members(place.path) if path not in self.untied]
        names = (self.stored.name(part) for path in tied for part in self.stored.parts.get(path, ()) if part != place)
        return tuple(copy for copy in names if copy and copy != self._source[name])

    def _check_complete(self) -> None:
        if refused := self.stored.refused:
            name, why = next(iter(refused.items()))
            raise ExpertError(f"{self.folder}: {name}, for {why}; such a tensor cannot be merged yet")
        if missing := self.stored.missing():
            known = {*self.stored.places, *self.stored.unplaced}
            unknown = next((name for name in self.checkpoint if name not in known), None)
            hint = (
                f"this architecture does not know {unknown}, which they hold"
                if unknown
                else "save it whole, with its head"
            )
            raise ExpertError(f"{self.folder}: {summary_line(missing)} not in the weight files; {hint}")

    def _check_tensors(self) -> None:
        for name, place in self.destination.items():
            expected, actual = self.skeleton.shape(place.path), self.shape(name)
            if place.whole and expected != actual:
                raise ExpertError(f"{self.folder}: {name} is {list(actual)}, config.json wants {list(expected)}")
            if self.dtype(name) not in FLOAT_DTYPES:
                raise ExpertError(
                    f"{self.folder}: {name} has dtype {self.dtype(name)}; save the model in floating point"
                )


def summary_line(problems: list[str]) -> str:
    """The first few entries on one line, and the number of further ones."""
    more = f" and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    return "; ".join(problems[:MAX_PROBLEMS]) + more
