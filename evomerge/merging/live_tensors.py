"""Where the tensors of a recipe go in a live model, whose layers may be those of the base or stacked in another order.

An output tensor that is a copy of one model's can stay resident: the live parameter then points at it, so that a
candidate that only reorders layers writes nothing.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from evomerge.errors import CandidateError
from evomerge.models import Destination, Family, LayerList, LiveTensor, Place, layer_of, shift_layer
from evomerge.recipes import ModelRef


class Copied(NamedTuple):
    """One model's tensor, unchanged; `kind` says how the model stores it, because an adapter's is computed."""

    model: ModelRef
    name: str
    kind: str


@dataclass(frozen=True)
class Target:
    """The place that an output tensor is written into; `key` names its storage."""

    key: Hashable
    place: Place


class LiveTensors:
    """The tensors of one live model by their output names.

    With `resident`, layers whose tensors are copies of one model's are kept in memory once and shared.
    """

    def __init__(self, family: Family, model: nn.Module, resident: bool = False) -> None:
        self.model, self._resident = model, resident
        self._layout, self._destinations = family.layout, family.base.destination
        shapes = {path: parameter.shape for path, parameter in model.named_parameters()}
        self._plain = {
            name: Target(tuple((name, shapes[path]) for path in self._destinations[name].paths), place)
            for name, place in family.base.live_tensors(model).items()
        }
        # Path and shape → the storage that belongs to this place of the model; kinds of layers may differ in shapes.
        self._own = {(path, parameter.shape): parameter.data for path, parameter in model.named_parameters()}
        self._kept: dict[Hashable, Tensor] = {}  # the resident parameters
        self._layers: LayerList | None = None
        self._current: Mapping[str, Target] = self._plain

    def targets(
        self, order: Sequence[int] | None, tensors: Iterable[tuple[str, Copied | None]]
    ) -> Mapping[str, Target]:
        """Output name → its target, after the layers are those of the base in this order (None: as they are).

        `tensors` are the output names, each with the tensor that it is a copy of, or None. CandidateError unless the
        names are those of the model.
        """
        copied = dict(tensors)
        if order is None or (not self._resident and list(order) == list(range(self._layout.layers))):
            if self._layers:
                self._layers.arrange(None)
            found: Mapping[str, Target] = self._plain
        else:
            self._stack.arrange(order)
            found = self._stacked(order, copied)
        _refuse_other_names(copied.keys(), found.keys())
        self._current = found
        return found

    def places(self) -> Mapping[str, Place]:
        """Output name → its place in the model as it is."""
        return {name: target.place for name, target in self._current.items()}

    @property
    def _stack(self) -> LayerList:
        if self._layers is None:
            places = (layer_of(place.path) for place in self._destinations.values())
            self._layers = LayerList(cast(Any, self.model), next(place[0] for place in places if place))
        return self._layers

    def _stacked(self, order: Sequence[int], copied: Mapping[str, Copied | None]) -> dict[str, Target]:
        parameters = dict(self.model.named_parameters())
        placed = dict(self._stacked_destinations(order))
        by_path: dict[str, list[str]] = {}
        for name, place in placed.items():
            for path in place.paths:
                by_path.setdefault(path, []).append(name)
        keys: dict[tuple[str, str], Hashable] = {}
        for path, names in by_path.items():
            kept = self._kept_key(path, [copied.get(name) for name in names])
            like = parameters[path].data
            parameters[path].data = self._own_storage(path, like) if kept is None else self._kept_storage(kept, like)
            for number, name in enumerate(names):
                # Storage of its own has the key that it has in the model as it was loaded.
                keys[name, path] = (name, like.shape) if kept is None else (kept, number)
        return {
            name: Target(tuple(keys[name, path] for path in place.paths), LiveTensor(place, parameters))
            for name, place in placed.items()
        }

    def _kept_key(self, path: str, copied: Sequence[Copied | None]) -> Hashable | None:
        """The name of the resident storage of a layer's parameter; None if it has storage of its own."""
        place = layer_of(path)
        if not self._resident or place is None or None in copied:
            return None
        return shift_layer(path, place[0], -place[1]), *copied

    def _kept_storage(self, key: Hashable, like: Tensor) -> Tensor:
        if key not in self._kept:
            self._kept[key] = torch.empty_like(like)
        return self._kept[key]

    def _own_storage(self, path: str, like: Tensor) -> Tensor:
        key = (path, like.shape)
        if key not in self._own:
            self._own[key] = torch.empty_like(like)
        return self._own[key]

    def _stacked_destinations(self, order: Sequence[int]) -> Iterable[tuple[str, Destination]]:
        by_layer: dict[int, list[tuple[str, Destination]]] = {}
        for name, place in self._destinations.items():
            stored, live = layer_of(name), layer_of(place.path)
            if stored is None or live is None:
                yield name, place
            else:
                by_layer.setdefault(stored[1], []).append((name, place))
        for new, old in enumerate(order):
            for name, place in by_layer[old]:
                stored, live = layer_of(name), layer_of(place.path)
                assert stored and live
                yield shift_layer(name, stored[0], new - old), place.shifted(live[0], new - old)


class FixedTensors:
    """The places of a model's tensors by their output names, in an engine whose layers stay as they are."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._targets = {name: Target(name, place) for name, place in places.items()}

    def targets(
        self, order: Sequence[int] | None, tensors: Iterable[tuple[str, Copied | None]]
    ) -> Mapping[str, Target]:
        """Output name → its target; CandidateError for layers in another order."""
        if order is not None and list(order) != list(range(len(order))):
            raise CandidateError("this engine cannot reorder layers; set scorer.generation=loop")
        _refuse_other_names((name for name, _ in tensors), self._targets)
        return self._targets

    def places(self) -> Mapping[str, Place]:
        """Output name → its place."""
        return {name: target.place for name, target in self._targets.items()}


def _refuse_other_names(written: Iterable[str], known: Iterable[str]) -> None:
    """CandidateError unless a recipe writes exactly the tensors of the live model."""
    written, known = set(written), set(known)
    if unknown := written - known:
        raise CandidateError(f"{min(unknown)}: the live model has no such tensor")
    if unwritten := known - written:
        raise CandidateError(f"{min(unwritten)}: the recipe writes no such parameter")
