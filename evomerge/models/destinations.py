"""Maps stored tensors to the loaded model: transformers renames, stacks, joins and splits tensors when it loads them.

The rules are those of `transformers.conversion_mapping`, applied to names and shapes without reading weights.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from evomerge.models.checkpoint import Shape
from evomerge.models.places import Block, Destination, whole_block
from evomerge.models.traced import MismatchError, Traced

Part = tuple[str, str]  # a stored name, and the pattern of the rule that it matches


@dataclass(frozen=True)
class DestinationMap:
    """Stored names with their destinations, and the parameters whose stored tensors do not fill them."""

    places: Mapping[str, Destination]
    refused: Mapping[str, tuple[str, str]]  # stored name → (path, reason why it cannot be merged)
    absent: Mapping[str, str]  # path → the name of a stored tensor that is missing
    unplaced: frozenset[str]  # names of known parameters without a destination, refused or incomplete


class LoadingRules:
    """The rules by which transformers maps a checkpoint's tensors to the parameters and buffers of one architecture."""

    def __init__(self, model: PreTrainedModel) -> None:
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._by_pattern = {pattern: rule for rule in self._converters for pattern in rule.source_patterns}
        self._prefix, self._model = model.base_model_prefix, model
        self._known: dict[str, Tensor] = model.state_dict()

    def path(self, stored: str) -> str:
        """The path to which transformers maps this stored name; the model may not have it."""
        return self._renamed(stored)[0]

    def is_converted(self, stored: str) -> bool:
        """Whether transformers converts the tensor of this name, together with others, when it loads it."""
        return self._renamed(stored)[1] is not None

    def find(self, names: Iterable[str], shape: Callable[[str], Shape]) -> DestinationMap:
        """The destinations of these stored tensors, without names that the architecture does not know."""
        places: dict[str, Destination] = {}
        refused: dict[str, tuple[str, str]] = {}
        absent: dict[str, str] = {}
        converted: dict[str, list[Part]] = {}
        for name in sorted(names, key=dot_natural_key):
            path, pattern = self._renamed(name)
            if path not in self._known:
                continue
            if pattern is None:
                places.setdefault(name, Destination(path))
            else:
                converted.setdefault(path, []).append((name, pattern))
        unplaced = frozenset(name for parts in converted.values() for name, _ in parts)
        for path, parts in converted.items():
            rule = self._by_pattern[parts[0][1]]
            if missing := self._missing(path, parts, rule):
                absent[path] = missing
                continue
            try:
                places |= self._converted(path, parts, rule, shape)
            except MismatchError as error:
                refused |= {name: (path, f"its parts do not fit together ({error})") for name, _ in parts}
            except (NotImplementedError, AttributeError, TypeError, ValueError, IndexError):
                steps = ", ".join(type(step).__name__ for step in rule.operations)
                refused |= {name: (path, f"transformers converts it when it loads ({steps})") for name, _ in parts}
        return DestinationMap(places, refused, absent, unplaced - places.keys())

    def _renamed(self, name: str) -> tuple[str, str | None]:
        renamed: tuple[str, str | None] = rename_source_key(
            name, self._renamings, self._converters, self._prefix, self._known
        )
        if renamed[0] not in self._known and name in self._known:
            renamed = rename_source_key(name, [], [], self._prefix, self._known)
        return renamed

    def _converted(
        self, path: str, parts: Sequence[Part], rule: WeightConverter, shape: Callable[[str], Shape]
    ) -> dict[str, Destination]:
        """The destinations of the stored tensors that one rule converts together."""
        converter = deepcopy(rule)
        for name, pattern in parts:
            tensor: Any = Traced.stored(name, shape(name))  # instead of the tensor that transformers would collect
            converter.add_tensor(path, name, pattern, tensor)
        targets = converter.convert(path, model=self._model, config=self._model.config)
        blocks: dict[str, list[Block]] = {name: [] for name, _ in parts}
        for target, found in targets.items():
            traced = found[0] if isinstance(found, list) else found
            if traced.shape != (expected := tuple(self._known[target].shape)):
                raise MismatchError(f"{target} would be {list(traced.shape)}, config.json wants {list(expected)}")
            for name, block in traced.pieces:
                blocks[name].append(replace(block, path=target))
        return {name: self._destination(found) for name, found in blocks.items()}

    def _destination(self, blocks: Sequence[Block]) -> Destination:
        (first, *more) = blocks
        is_whole = not more and first == whole_block(first.path, tuple(self._known[first.path].shape))
        return Destination(first.path, () if is_whole else tuple(blocks))

    def _missing(self, path: str, parts: Sequence[Part], rule: WeightConverter) -> str | None:
        """The name of the first numbered tensor of a stack that is not among the stored ones."""
        by_pattern: dict[str, list[str]] = {pattern: [] for pattern in rule.source_patterns}
        for name, pattern in parts:
            by_pattern[pattern].append(name)
        stacks = [names for pattern, names in by_pattern.items() if "*" in pattern and names]
        count = max(map(len, stacks), default=0)
        if isinstance(rule.operations[0], MergeModulelist) and len(rule.target_patterns) == 1:
            count = max(count, self._known[path].shape[0])
        return next((gap for names in stacks if (gap := _gap(names, count))), None)


def _gap(names: Sequence[str], count: int) -> str | None:
    """The first name of `count` numbered ones that is not in `names`, which are in the order of their numbers."""
    parts = [re.split(r"(\d+)", name) for name in names]
    ends = parts[0], parts[-1]
    place = next((i for i, pair in enumerate(zip(*ends, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return None
    gap = next((i for i, part in enumerate(parts) if part[place] != str(i)), len(parts))
    return "".join([*parts[0][:place], str(gap), *parts[0][place + 1 :]]) if gap < count else None


def covers(places: Iterable[Destination], path: str, shape: Shape) -> bool:
    """Whether these destinations cover the parameter at `path`, which has this shape."""
    parts = list(places)
    return any(part.whole for part in parts) or sum(part.numel(path) for part in parts) == math.prod(shape)
