"""Recipe: the frozen, explicit description of one merge.

A recipe contains settings, not values per tensor: the function `plan` of `evomerge.merging` computes these. The names
of the dataclass fields below are part of the content key, so they must not change.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

Scalar = float | bool

DTYPES = ("float32", "bfloat16", "float16")  # that weights are merged into and exported in


@dataclass(frozen=True)
class FilteredValue:
    """A value for the tensors whose name contains `filter`; a `filter` of None matches every tensor."""

    filter: str | None
    value: "Scalar | tuple[Scalar, ...]"


Setting = Scalar | tuple[Scalar, ...] | tuple[FilteredValue, ...]
Settings = Mapping[str, Setting]
SettingReader = Callable[[tuple[str, ...], float], Scalar | None]


def evaluate(setting: Setting, names: tuple[str, ...], depth: float) -> Scalar | None:
    """The value of a setting for a tensor with these names at relative depth 0 … 1; None if no filter matches.

    A tuple of numbers is a gradient, interpolated linearly over the depth. The first matching filter wins.
    """
    return setting_reader(setting)(names, depth)


def setting_reader(setting: Setting) -> SettingReader:
    """A function that evaluates one setting for many tensors, like `evaluate`."""
    if not isinstance(setting, tuple):
        return lambda names, depth: setting
    if not (setting and isinstance(setting[0], FilteredValue)):
        return _gradient(tuple(value for value in setting if not isinstance(value, FilteredValue)))
    entries = [entry for entry in setting if isinstance(entry, FilteredValue)]
    filters, values = tuple(entry.filter for entry in entries), [setting_reader(entry.value) for entry in entries]

    def read(names: tuple[str, ...], depth: float) -> Scalar | None:
        place = _first_match(filters, names)
        return None if place is None else values[place](names, depth)

    return read


def _gradient(values: tuple[Scalar, ...]) -> SettingReader:
    last, discrete = len(values) - 1, any(isinstance(value, bool) for value in values)

    def read(names: tuple[str, ...], depth: float) -> Scalar:
        low = int(depth * last)
        if discrete:
            return values[low]
        fraction = depth * last - low
        return (1 - fraction) * values[low] + fraction * values[min(last, low + 1)]

    return read


@lru_cache(maxsize=1 << 16)
def _first_match(filters: tuple[str | None, ...], names: tuple[str, ...]) -> int | None:
    """The index of the first filter that matches one of a tensor's names; equal for all candidates, so cached."""
    matches = (i for i, text in enumerate(filters) if text is None or any(text in name for name in names))
    return next(matches, None)


def simplify_setting(setting: Setting) -> Setting:
    """The shortest setting with the same values: constant gradients and equal values become scalars."""
    if not isinstance(setting, tuple):
        return setting
    entries = tuple(entry for entry in setting if isinstance(entry, FilteredValue))
    if not entries:
        return _without_constant_gradient(tuple(entry for entry in setting if not isinstance(entry, FilteredValue)))
    short = tuple(FilteredValue(entry.filter, _without_constant_gradient(entry.value)) for entry in entries)
    all_equal = len({entry.value for entry in short}) == 1
    return short[0].value if all_equal and short[-1].filter is None else short


def _without_constant_gradient(value: Scalar | tuple[Scalar, ...]) -> Scalar | tuple[Scalar, ...]:
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


@dataclass(frozen=True)
class ModelRef:
    """The location of a model: a hub id or folder, its revision, and optionally a LoRA adapter applied to it."""

    path: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Parse `path[@revision][+adapter[@revision]]`; an existing folder of this name takes precedence."""
        if Path(text).exists():
            return cls(text)
        model, _, adapter = text.partition("+")
        path, revision = _revision(model)
        if not adapter:
            return cls(path, revision)
        return cls(path, revision, *_revision(adapter))

    def __str__(self) -> str:
        text = self.path + (f"@{self.revision}" if self.revision else "")
        if self.adapter:
            text += f"+{self.adapter}" + (f"@{self.adapter_revision}" if self.adapter_revision else "")
        return text


def _revision(text: str) -> tuple[str, str | None]:
    if Path(text).exists():
        return text, None
    path, _, revision = text.partition("@")
    return path, revision or None


@dataclass(frozen=True)
class Source:
    """One input model with its own settings; `layers` [first, last) is set only for recipes with slices."""

    model: ModelRef
    settings: Settings = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """A range of output layers with its input models; a recipe with `models` has one slice over all layers."""

    sources: tuple[Source, ...]
    settings: Settings = field(default_factory=dict)
    base: ModelRef | None = None


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file; its SHA-256 stands for it in content keys, and its path may change."""

    path: str = field(compare=False)
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """One merge: method, base, input models and all settings that determine the bytes of the merged weights.

    `vocabulary` is the part of the tokenizer's keys that changes rows of the embedding; it is empty where the rows stay
    the base's. The tensors of `routers` are taken from that file instead of being merged. `tokenizer` (the document's
    keys about the tokenizer) and `notes` do not affect equality or the key.
    """

    method: str
    base: ModelRef | None
    slices: tuple[Slice, ...]
    settings: Settings = field(default_factory=dict)
    out_dtype: str | None = None
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict, compare=False)
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    routers: TensorFile | None = None

    def models(self) -> tuple[ModelRef, ...]:
        """Every model of the merge once, in recipe order, the base first."""
        models = dict.fromkeys([self.base] if self.base else [])
        for part in self.slices:
            if part.base:
                models.setdefault(part.base)
            models.update(dict.fromkeys(source.model for source in part.sources))
        return tuple(models)

    def key(self) -> str:
        """Content key of 16 hex digits: recipes with equal keys merge to the same bytes."""
        content = {
            name: value for name, value in _fields(self).items() if name not in ("tokenizer", "notes", "routers")
        }
        if not self.vocabulary:  # keys of recipes that change no row are older than the field
            del content["vocabulary"]
        if self.routers:
            content["routers"] = self.routers.sha256
        text = json.dumps(content, sort_keys=True, default=lambda value: _fields(value) or str(value))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def with_notes(self, notes: Mapping[str, Any]) -> "Recipe":
        """The same merge with other notes."""
        return replace(self, notes=dict(notes))

    def with_routers(self, routers: TensorFile) -> "Recipe":
        """The same merge with the routers of a file."""
        return replace(self, routers=routers)

    def all_settings(self) -> Iterator[tuple[str, Setting]]:
        """Every (name, setting) pair of the recipe, its slices and its sources."""
        yield from self.settings.items()
        for part in self.slices:
            yield from part.settings.items()
            for source in part.sources:
                yield from source.settings.items()


def _fields(value: Any) -> dict[str, Any]:
    """Field → value of a dataclass, without copies, which would take most of the time of a key; else empty."""
    if not is_dataclass(value):
        return {}
    return {each.name: getattr(value, each.name) for each in fields(value)}


def recipe_of_models(
    method: str,
    base: ModelRef | None,
    sources: tuple[Source, ...],
    settings: Settings,
    *,
    out_dtype: str | None = None,
    seed: int = 0,
    options: Mapping[str, str] | None = None,
    vocabulary: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe in the form with `models`, where every source spans all layers."""
    values = method, base, (Slice(sources),), settings, out_dtype, seed, options or {}
    return Recipe(*values, vocabulary=vocabulary or {})
