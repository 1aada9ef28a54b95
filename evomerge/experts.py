"""A base and an expert as mappings from the base's tensor names to what each brings, whatever their files look like."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.checkpoint import Checkpoint
from evomerge.errors import ExpertError
from evomerge.kernels.sources import Update
from evomerge.lora import Adapter, Factors
from evomerge.model import full_config, refuse_unmergeable, skeleton

COMPARED = (
    "model_type",
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "hidden_size",
    "vocab_size",
    "tie_word_embeddings",
)
FLOATS = {"F64", "F32", "F16", "BF16"}
SHOWN = 5


class Base:
    """The base's mergeable tensors under the names of its files, and which parameter each of them fills."""

    def __init__(self, folder: Path, trust_remote_code: bool) -> None:
        self.folder, self.trust_remote_code = folder, trust_remote_code
        self.checkpoint = Checkpoint(folder)
        self.skeleton = skeleton(folder, trust_remote_code)
        self.parameter: dict[str, str] = {}
        missing = []
        for name in self.skeleton.parameters:
            file_name = self._find(name)
            if file_name:
                self.parameter[file_name] = name
            else:
                missing.append(name)
        if missing:
            raise ExpertError(f"{folder}: {listed(missing)} not in the weight files; is the download complete?")
        self._check_shapes()
        self.file_name = {parameter: name for name, parameter in self.parameter.items()}
        self.kept = tuple(name for name in self.checkpoint if name in self.skeleton.buffers)

    def in_file(self, name: str, held: "Checkpoint | Mapping[str, Any]") -> str | None:
        """The name under which `held` stores the parameter: its own, or with the head's prefix added or removed."""
        prefix = f"{self.skeleton.prefix}."
        spellings = (name, name.removeprefix(prefix), prefix + name)
        return next((spelling for spelling in spellings if spelling in held), None)

    def _find(self, parameter: str) -> str | None:
        aliases = (alias for alias, source in self.skeleton.tied.items() if source == parameter)
        found = (self.in_file(name, self.checkpoint) for name in (parameter, *aliases))
        return next((name for name in found if name), None)

    def _check_shapes(self) -> None:
        for name, parameter in self.parameter.items():
            want, got = self.skeleton.parameters[parameter], self.checkpoint.shape(name)
            if want != got:
                raise ExpertError(f"{self.folder}: {name} is {list(got)}, config.json wants {list(want)}")
            if self.checkpoint.dtype(name) not in FLOATS:
                dtype = self.checkpoint.dtype(name)
                raise ExpertError(f"{self.folder}: {name} has dtype {dtype}; save the model in floating point")


class FullExpert:
    """A checkpoint as an expert: one dense tensor for each of the base's."""

    def __init__(self, checkpoint: Checkpoint, base: Base) -> None:
        self.checkpoint = checkpoint
        self._spelling = {name: base.in_file(name, checkpoint) for name in base.parameter}

    def sha256(self) -> str:
        """SHA-256 over its weight files."""
        return self.checkpoint.sha256

    def touches(self, name: str) -> bool:
        """Any tensor may differ from the base's: only the data could tell."""
        return name in self._spelling

    def update(self, name: str) -> Update:
        """The dense tensor that stands for the base's tensor `name`."""
        spelling = self._spelling[name]
        return self.checkpoint.tensor(spelling) if spelling else None

    def nbytes(self, name: str) -> int:
        """Bytes that the expert brings to the base's tensor `name`."""
        return self.checkpoint.nbytes(self._spelling[name] or name)

    def dtype(self, name: str) -> str:
        """The safetensors dtype of the tensor that stands for the base's `name`."""
        return self.checkpoint.dtype(self._spelling[name] or name)

    def problems(self, base: Base) -> list[str]:
        """Where this checkpoint cannot stand beside the base: architecture, shapes, missing and extra tensors."""
        refuse_unmergeable(self.checkpoint.folder, self.checkpoint.config)
        # With the architecture's defaults filled in: an old config.json may lack a key that decides about tying.
        mine = full_config(self.checkpoint.folder, base.trust_remote_code)
        theirs = full_config(base.folder, base.trust_remote_code)
        found = [
            f"{key} {mine.get(key)} (base {theirs.get(key)})"
            for key in COMPARED
            if key in mine and key in theirs and mine[key] != theirs[key]
        ]
        for name, spelling in self._spelling.items():
            if spelling is None:
                found.append(f"{name} missing")
            elif self.checkpoint.shape(spelling) != base.checkpoint.shape(name):
                shapes = list(self.checkpoint.shape(spelling)), list(base.checkpoint.shape(name))
                found.append(f"{name} {shapes[0]} (base {shapes[1]})")
            elif self.checkpoint.dtype(spelling) not in FLOATS:
                found.append(f"{name} of dtype {self.checkpoint.dtype(spelling)}")
        return found + [f"{name} extra" for name in self._extra(base)]

    def _extra(self, base: Base) -> list[str]:
        known = {spelling for spelling in self._spelling.values() if spelling}
        known |= set(base.checkpoint) | set(base.skeleton.buffers) | set(base.skeleton.tied)
        return [name for name in self.checkpoint if name not in known and ".rotary_emb." not in name]


class AdapterExpert:
    """A LoRA adapter as an expert: an update of the base's tensors, or of another checkpoint's (`origin`)."""

    def __init__(self, adapter: Adapter, base: Base, origin: FullExpert | None) -> None:
        self.adapter = adapter
        self._base, self._origin = base, origin
        self._names = frozenset(adapter.names())

    def sha256(self) -> str:
        """SHA-256 of the adapter's weight file."""
        return self.adapter.sha256

    def touches(self, name: str) -> bool:
        """Whether the adapter changes the base's tensor `name`."""
        return self._origin is not None or self._base.parameter[name] in self._names

    def nbytes(self, name: str) -> int:
        """Bytes that the adapter brings to the base's tensor `name`."""
        return self.adapter.nbytes(self._base.parameter[name])

    def update(self, name: str) -> Update:
        """The adapter's factors for the base's tensor `name`, or the whole weight where factors of it do not exist."""
        update = self.adapter.update(self._base.parameter[name], self._tensor)
        if self._origin is None:
            return update
        own = self._tensor(self._base.parameter[name])
        return own if update is None else update.delta().add_(own) if isinstance(update, Factors) else update

    def problems(self, base: Base) -> list[str]:
        """Where the adapter was made for another base."""
        if self._origin and (found := self._origin.problems(base)):
            return found
        return self.adapter.problems(dict(base.skeleton.parameters))

    def _tensor(self, parameter: str) -> Tensor:
        name = self._base.file_name[parameter]
        found = self._origin.update(name) if self._origin else None
        return found if isinstance(found, Tensor) else self._base.checkpoint.tensor(name)


Expert = FullExpert | AdapterExpert


def listed(problems: list[str]) -> str:
    """The first few problems on one line, and how many more there are."""
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more
