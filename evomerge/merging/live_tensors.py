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
from evomerge.models import Destination, Family, LayerList, layer_of, shift_layer
from evomerge.recipes import ModelRef


class Copied(NamedTuple):
    """One model's tensor, unchanged; `kind` says how the model stores it, because an adapter's is computed."""

    model: ModelRef
    name: str
    kind: str


@dataclass(frozen=True)
class Target:
    """The view that an output tensor is written into; `key` names its storage."""

    key: Hashable
    view: Tensor


class LiveTensors:
    """The tensors of one live model by their output names.

    With `resident`, layers whose tensors are copies of one model's are kept in memory once and shared.
    """

    def __init__(self, family: Family, model: nn.Module, resident: bool = False) -> None:
        self.model, self._resident = model, resident
        self._layout, self._destinations = family.layout, family.base.destination
        shapes = {path: parameter.shape for path, parameter in model.named_parameters()}
        self._plain = {
            name: Target((name, shapes[self._destinations[name].path]), view)
            for name, view in family.base.parameter_views(model).items()
        }
        # Path and shape → the storage that belongs to this place of the model; kinds of layers may differ in shapes.
        self._own = {(path, parameter.shape): parameter.data for path, parameter in model.named_parameters()}
        self._kept: dict[tuple[Copied, ...], Tensor] = {}  # the resident parameters
        self._layers: LayerList | None = None
        self._current: Mapping[str, Tensor] = {name: target.view for name, target in self._plain.items()}

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
        self._current = {name: target.view for name, target in found.items()}
        return found

    def tensors(self) -> Mapping[str, Tensor]:
        """Output name → the tensor of the model as it is."""
        return self._current

    @property
    def _stack(self) -> LayerList:
        if self._layers is None:
            places = (layer_of(place.path) for place in self._destinations.values())
            self._layers = LayerList(cast(Any, self.model), next(place[0] for place in places if place))
        return self._layers

    def _stacked(self, order: Sequence[int], copied: Mapping[str, Copied | None]) -> dict[str, Target]:
        parameters = dict(self.model.named_parameters())
        by_path: dict[str, list[tuple[str, Destination]]] = {}
        for name, place in self._stacked_destinations(order):
            by_path.setdefault(place.path, []).append((name, place))
        found: dict[str, Target] = {}
        for path, parts in by_path.items():
            origin = tuple(source for name, _ in parts if (source := copied.get(name)))
            keeps = self._resident and layer_of(path) is not None and len(origin) == len(parts)
            storage = self._kept_storage(origin, parameters[path]) if keeps else self._own_storage(path, parameters)
            parameters[path].data = storage
            for name, place in parts:
                key = (origin, place.start) if keeps else (name, storage.shape)
                found[name] = Target(key, place.view(storage))
        return found

    def _kept_storage(self, origin: tuple[Copied, ...], like: Tensor) -> Tensor:
        if origin not in self._kept:
            self._kept[origin] = torch.empty_like(like.data)
        return self._kept[origin]

    def _own_storage(self, path: str, parameters: Mapping[str, nn.Parameter]) -> Tensor:
        like = parameters[path].data
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
                path = shift_layer(place.path, live[0], new - old)
                yield (
                    shift_layer(name, stored[0], new - old),
                    Destination(path, place.dim, place.start, place.length),
                )


def _refuse_other_names(written: Iterable[str], known: Iterable[str]) -> None:
    """CandidateError unless a recipe writes exactly the tensors of the live model."""
    written, known = set(written), set(known)
    if unknown := written - known:
        raise CandidateError(f"{min(unknown)}: the live model has no such tensor")
    if unwritten := known - written:
        raise CandidateError(f"{min(unwritten)}: the recipe writes no such parameter")
