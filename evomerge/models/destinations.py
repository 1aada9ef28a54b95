"""Where a stored tensor lives in the loaded model: transformers renames and joins tensors when it loads a checkpoint.

The rules are transformers' own (`transformers.conversion_mapping`), applied to names and shapes: no weight is read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Destination:
    """A whole parameter or buffer of the live model, or the part of it from `start`, `length` long, along `dim`."""

    path: str
    dim: int = 0
    start: int = 0
    length: int | None = None

    @property
    def whole(self) -> bool:
        """Whether the stored tensor is all of what stands at the path."""
        return self.length is None

    def view(self, tensor: Tensor) -> Tensor:
        """The storage that the stored tensor fills, in the tensor that stands at the path."""
        return tensor if self.length is None else tensor.narrow(self.dim, self.start, self.length)


@dataclass(frozen=True)
class Found:
    """Stored name → destination, and for stored names that have none that can be written to, the reason."""

    places: Mapping[str, Destination]
    refused: Mapping[str, tuple[str, str]]  # stored name → path it would go to, why it cannot


class LoadingRules:
    """How transformers finds the parameters and buffers of one architecture in a checkpoint's files."""

    def __init__(self, model: PreTrainedModel) -> None:
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._by_pattern = {pattern: rule for rule in self._converters for pattern in rule.source_patterns}
        self._prefix = model.base_model_prefix
        self._known: dict[str, Tensor] = model.state_dict()

    def path(self, stored: str) -> str:
        """The path that transformers looks for when it finds this name in a file; not every path exists."""
        return self._renamed(stored)[0]

    def find(self, names: Iterable[str], shape: Callable[[str], Shape]) -> Found:
        """Where each of these stored tensors goes; names that the architecture does not know are left out."""
        places: dict[str, Destination] = {}
        refused: dict[str, tuple[str, str]] = {}
        joined: dict[str, list[tuple[str, str]]] = {}
        for name in sorted(names, key=dot_natural_key):
            path, pattern = self._renamed(name)
            if path not in self._known:
                continue
            if pattern is None:
                places.setdefault(name, Destination(path))
            else:
                joined.setdefault(path, []).append((name, pattern))
        for path, parts in joined.items():
            rule = self._by_pattern[parts[0][1]]
            first, *more = rule.operations
            if isinstance(first, Concatenate) and not more:
                places.update(_side_by_side(path, _ordered(parts, rule), first.dim, shape))
            else:
                steps = ", ".join(type(step).__name__ for step in rule.operations)
                refused |= {name: (path, f"transformers converts it when it loads ({steps})") for name, _ in parts}
        return Found(places, refused)

    def _renamed(self, name: str) -> tuple[str, str | None]:
        found: tuple[str, str | None] = rename_source_key(
            name, self._renamings, self._converters, self._prefix, self._known
        )
        if found[0] not in self._known and name in self._known:
            found = rename_source_key(name, [], [], self._prefix, self._known)
        return found


def _ordered(parts: Iterable[tuple[str, str]], rule: WeightConverter) -> list[str]:
    """Stored names in the order in which they are joined: that of the rule's patterns, then that of their names."""
    order = {pattern: place for place, pattern in enumerate(rule.source_patterns)}
    return [name for name, _ in sorted(parts, key=lambda part: order[part[1]])]


def _side_by_side(
    path: str, names: Iterable[str], dim: int, shape: Callable[[str], Shape]
) -> Iterator[tuple[str, Destination]]:
    start = 0
    for name in names:
        length = shape(name)[dim]
        yield name, Destination(path, dim, start, length)
        start += length


def covers(places: Iterable[Destination], shape: Shape) -> bool:
    """Whether these destinations of one path fill a tensor of that shape."""
    found = list(places)
    return any(place.whole for place in found) or sum(place.length or 0 for place in found) == shape[found[0].dim]
