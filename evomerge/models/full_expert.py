"""A full checkpoint as an expert: a mapping from destinations in the live model to tensors, for every file layout."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.kernels import Update
from evomerge.models.base import FLOAT_DTYPES, Base
from evomerge.models.checkpoint import Shape
from evomerge.models.dequantised import DequantisedCheckpoint, open_checkpoint
from evomerge.models.live_model import full_config
from evomerge.models.places import Destination
from evomerge.models.skeleton import skeleton
from evomerge.models.stored import StoredModel
from evomerge.models.stored_inputs import StoredInput, StoredTensor
from evomerge.models.vocabulary_tensors import ROWS_KEY

COMPARED_KEYS = ("model_type", "num_hidden_layers", "num_layers", "n_layer", "hidden_size", ROWS_KEY)
EXPERT_COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Keys of a configuration that may differ between models of the same architecture.
IGNORED_KEYS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


class FullExpert:
    """A full checkpoint as an expert: one dense tensor for each tensor of the base."""

    def __init__(self, stored: StoredModel) -> None:
        self.stored, self.checkpoint = stored, stored.checkpoint

    def sha256(self) -> str:
        """SHA-256 over its weight files."""
        return self.checkpoint.sha256

    def weight_files(self) -> list[Path]:
        """The files that the user has of it."""
        return self.checkpoint.weight_files()

    def untied(self, aliases: Mapping[str, str]) -> frozenset[str]:
        """Of the base's tied paths, those at which this checkpoint has a separate tensor."""
        return self.stored.untied(aliases)

    def touches(self, place: Destination) -> bool:
        """Whether the checkpoint has a tensor for this destination; only its data could say whether it differs."""
        return bool(self.stored.names(place))

    def is_tied(self, place: Destination) -> bool:
        """Whether the checkpoint's tensor for this destination is that of another path, to which it is tied."""
        name = self.stored.name(place)
        return name is not None and self.stored.places[name].path != place.path

    def update(self, place: Destination) -> Update:
        """The checkpoint's dense tensor for this destination, None if it has none."""
        return self.stored.tensor(place) if self.touches(place) else None

    def is_computed(self, place: Destination) -> bool:
        """Whether `update` joins several stored tensors to a new one."""
        return len(self.stored.names(place)) > 1

    def stored_input(self, place: Destination) -> StoredInput:
        """How `update` follows from the checkpoint's files."""
        name = None if isinstance(self.checkpoint, DequantisedCheckpoint) else self.stored.name(place)
        return StoredTensor(name) if name else "computed" if self.touches(place) else "base"

    def nbytes(self, place: Destination) -> int:
        """Bytes of the expert's tensor for this destination."""
        return self.stored.nbytes(place)

    def shape(self, place: Destination) -> Shape | None:
        """The shape of the expert's tensor for this destination, None if it has none."""
        name = self.stored.name(place)
        return self.checkpoint.shape(name) if name else None

    def dtype(self, place: Destination) -> str | None:
        """The safetensors dtype of the expert's tensor for this destination."""
        names = self.stored.names(place)
        return self.checkpoint.dtype(names[0]) if names else None

    def problems(self, base: Base, axes: Mapping[str, int]) -> list[str]:
        """One line for each mismatch with the base: architecture, shapes, missing and extra tensors.

        `axes` are parameters with the axis along which their length may be another: that of the tokens.
        """
        # Compared with the architecture's defaults, because an old config.json may lack keys that newer ones have.
        config = full_config(self.checkpoint.folder, base.trust_remote_code)
        base_config = full_config(base.folder, base.trust_remote_code)
        problems = [
            f"{key} {config.get(key)} (base {base_config.get(key)})"
            for key in (*COMPARED_KEYS, *EXPERT_COUNT_KEYS)
            if key in config and key in base_config and config[key] != base_config[key]
            if not (axes and key == ROWS_KEY)
        ]
        problems += [f"{name}, for {why}, cannot be merged yet" for name, why in self.stored.refused.items()]
        problems += [f"{name} missing" for name in self.stored.absent.values()]
        places = base.destination.items()
        found = (
            self._problem(base, name, place, axes.get(place.path))
            for name, place in places
            if not self.stored.is_faulty(place)
        )
        problems += [problem for problem in found if problem]
        return problems + [f"{name} extra" for name in self._extra(base)]

    def _problem(self, base: Base, name: str, place: Destination, axis: int | None) -> str | None:
        shapes = self.stored.skeleton.parameters
        for path in place.paths if place.blocks else ():
            if path in shapes and shapes[path] != base.skeleton.parameters[path]:
                return f"{name}, of {path} {list(shapes[path])} (base {list(base.skeleton.parameters[path])})"
        names = self.stored.names(place)
        if not names:
            return None if place.path in base.skeleton.frozen else f"{name} missing"
        actual, expected = self.stored.shape(place), base.shape(name)
        if _without(actual, axis) != _without(expected, axis):
            return f"{name} {list(actual)} (base {list(expected)})"
        dtypes = (self.checkpoint.dtype(stored) for stored in names)
        return next((f"{name} of dtype {dtype}" for dtype in dtypes if dtype not in FLOAT_DTYPES), None)

    def _extra(self, base: Base) -> list[str]:
        used = {name for place in base.destination.values() for name in self.stored.names(place)} | set(base.checkpoint)
        merged = self.stored.skeleton.parameters
        ignored = re.compile("|".join((r"\.rotary_emb\.", *self.stored.skeleton.ignored)))

        def is_extra(name: str) -> bool:
            place = self.stored.places.get(name)
            if name in self.stored.unplaced:
                return False  # another line names it or its stack
            return (
                place.path in merged and place.path not in base.skeleton.frozen if place else not ignored.search(name)
            )

        return [name for name in self.checkpoint if name not in used and is_extra(name)]


def _without(shape: Shape, axis: int | None) -> Shape:
    return tuple(length for i, length in enumerate(shape) if i != axis)


def open_stored(folder: Path, trust_remote_code: bool, like: StoredModel | None = None) -> StoredModel:
    """The checkpoint in `folder`; it shares the skeleton of `like` if both have the same architecture."""
    if like and _architecture(folder, trust_remote_code) == _architecture(like.checkpoint.folder, trust_remote_code):
        return StoredModel(open_checkpoint(folder), like.skeleton)
    architecture = skeleton(folder, trust_remote_code)  # before the weight files, because its errors are more helpful
    return StoredModel(open_checkpoint(folder), architecture)


def _architecture(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """The configuration without the keys that do not affect the architecture."""
    config = full_config(folder, trust_remote_code)
    return {key: value for key, value in config.items() if key not in IGNORED_KEYS}
