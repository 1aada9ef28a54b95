"""Maps stored tensors to the loaded model: transformers renames and concatenates tensors when it loads a checkpoint.

The rules are those of `transformers.conversion_mapping`, applied to names and shapes without reading weights.
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

from evomerge.models.checkpoint import Shape


@dataclass(frozen=True)
class Destination:
    """A whole parameter or buffer of the live model, or its slice of `length` from `start` along `dim`."""

    path: str
    dim: int = 0
    start: int = 0
    length: int | None = None

    @property
    def whole(self) -> bool:
        """Whether the stored tensor is the whole parameter or buffer."""
        return self.length is None

    def view(self, tensor: Tensor) -> Tensor:
        """The view of the parameter or buffer at `path` into which the stored tensor is written."""
        return tensor if self.length is None else tensor.narrow(self.dim, self.start, self.length)


@dataclass(frozen=True)
class DestinationMap:
    """Stored names with their destinations, and stored names that cannot be merged with the reason."""

    places: Mapping[str, Destination]
    refused: Mapping[str, tuple[str, str]]  # stored name → (path, reason)


class LoadingRules:
    """The rules by which transformers maps a checkpoint's tensors to the parameters and buffers of one architecture."""

    def __init__(self, model: PreTrainedModel) -> None:
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._by_pattern = {pattern: rule for rule in self._converters for pattern in rule.source_patterns}
        self._prefix = model.base_model_prefix
        self._known: dict[str, Tensor] = model.state_dict()

    def path(self, stored: str) -> str:
        """The path to which transformers maps this stored name; the model may not have it."""
        return self._renamed(stored)[0]

    def find(self, names: Iterable[str], shape: Callable[[str], Shape]) -> DestinationMap:
        """The destinations of these stored tensors, without names that the architecture does not know."""
        places: dict[str, Destination] = {}
        refused: dict[str, tuple[str, str]] = {}
        converted: dict[str, list[tuple[str, str]]] = {}
        for name in sorted(names, key=dot_natural_key):
            path, pattern = self._renamed(name)
            if path not in self._known:
                continue
            if pattern is None:
                places.setdefault(name, Destination(path))
            else:
                converted.setdefault(path, []).append((name, pattern))
        for path, parts in converted.items():
            rule = self._by_pattern[parts[0][1]]
            first, *more = rule.operations
            if isinstance(first, Concatenate) and not more:
                places.update(_concatenated(path, _ordered(parts, rule), first.dim, shape))
            else:
                steps = ", ".join(type(step).__name__ for step in rule.operations)
                refused |= {name: (path, f"transformers converts it when it loads ({steps})") for name, _ in parts}
        return DestinationMap(places, refused)

    def _renamed(self, name: str) -> tuple[str, str | None]:
        renamed: tuple[str, str | None] = rename_source_key(
            name, self._renamings, self._converters, self._prefix, self._known
        )
        if renamed[0] not in self._known and name in self._known:
            renamed = rename_source_key(name, [], [], self._prefix, self._known)
        return renamed


def _ordered(parts: Iterable[tuple[str, str]], rule: WeightConverter) -> list[str]:
    """Stored names in the order of concatenation: by the rule's patterns, then by name."""
    order = {pattern: place for place, pattern in enumerate(rule.source_patterns)}
    return [name for name, _ in sorted(parts, key=lambda part: order[part[1]])]


def _concatenated(
    path: str, names: Iterable[str], dim: int, shape: Callable[[str], Shape]
) -> Iterator[tuple[str, Destination]]:
    start = 0
    for name in names:
        length = shape(name)[dim]
        yield name, Destination(path, dim, start, length)
        start += length


def covers(places: Iterable[Destination], shape: Shape) -> bool:
    """Whether these destinations of one path cover a tensor of this shape."""
    parts = list(places)
    return any(part.whole for part in parts) or sum(part.length or 0 for part in parts) == shape[parts[0].dim]
