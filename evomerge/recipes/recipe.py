"""Recipe: the frozen, explicit description of one merge.

A recipe knows settings, not tensors: `plan.py` turns it into one value per tensor. Its YAML (recipe_yaml.py) is
mergekit's schema plus one `evomerge:` block.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

Scalar = float | bool

DTYPES = ("float32", "bfloat16", "float16")  # that weights are merged into and exported in


@dataclass(frozen=True)
class Rule:
    """A value for the tensors whose name contains `filter`; a `filter` of None matches every tensor."""

    filter: str | None
    value: "Scalar | tuple[Scalar, ...]"


Setting = Scalar | tuple[Scalar, ...] | tuple[Rule, ...]
Settings = Mapping[str, Setting]
Reader = Callable[[tuple[str, ...], float], Scalar | None]


def evaluate(setting: Setting, names: tuple[str, ...], depth: float) -> Scalar | None:
    """The value of a setting for a tensor of these spellings at relative depth 0 … 1, or None where no rule matches.

    A tuple of numbers is a gradient, interpolated linearly over the depth; of rules the first match wins.
    """
    return reader(setting)(names, depth)


def reader(setting: Setting) -> Reader:
    """`evaluate` of one setting, for many tensors."""
    if not isinstance(setting, tuple):
        return lambda names, depth: setting
    if not (setting and isinstance(setting[0], Rule)):
        return _gradient(tuple(value for value in setting if not isinstance(value, Rule)))
    rules = [rule for rule in setting if isinstance(rule, Rule)]
    filters, values = tuple(rule.filter for rule in rules), [reader(rule.value) for rule in rules]

    def read(names: tuple[str, ...], depth: float) -> Scalar | None:
        place = _first_match(filters, names)
        return None if place is None else values[place](names, depth)

    return read


def _gradient(values: tuple[Scalar, ...]) -> Reader:
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
    """The first filter that a tensor's spellings meet; every candidate of a search asks the same."""
    hits = (i for i, text in enumerate(filters) if text is None or any(text in name for name in names))
    return next(hits, None)


def simplify(setting: Setting) -> Setting:
    """The shortest setting with the same values: equal gradients and equal catch-all rules become scalars."""
    if not isinstance(setting, tuple):
        return setting
    rules = tuple(entry for entry in setting if isinstance(entry, Rule))
    if not rules:
        return _flat(tuple(entry for entry in setting if not isinstance(entry, Rule)))
    short = tuple(Rule(rule.filter, _flat(rule.value)) for rule in rules)
    same = len({rule.value for rule in short}) == 1
    return short[0].value if same and short[-1].filter is None else short


def _flat(value: Scalar | tuple[Scalar, ...]) -> Scalar | tuple[Scalar, ...]:
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


@dataclass(frozen=True)
class ModelRef:
    """Where a model is: a hub id or folder at a revision, optionally with a LoRA adapter on it."""

    path: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Read `path[@revision][+adapter[@revision]]`; an existing folder of exactly that name wins."""
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
    """A model that takes part, with its own settings; `layers` [first, last) only in the slices form."""

    model: ModelRef
    settings: Settings = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """A run of output layers and where it comes from; the models form is one slice over all layers."""

    sources: tuple[Source, ...]
    settings: Settings = field(default_factory=dict)
    base: ModelRef | None = None


@dataclass(frozen=True)
class Recipe:
    """One merge: method, base, sources and every setting that its bytes depend on, plus what they do not depend on.

    That is `tokenizer`, the keys of a document about the tokenizer that goes with the weights, and notes.
    """

    method: str
    base: ModelRef | None
    slices: tuple[Slice, ...]
    settings: Settings = field(default_factory=dict)
    out_dtype: str | None = None
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict, compare=False)
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def models(self) -> tuple[ModelRef, ...]:
        """Every model that is read, in recipe order, each once, the base first."""
        found = dict.fromkeys([self.base] if self.base else [])
        for part in self.slices:
            if part.base:
                found.setdefault(part.base)
            found.update(dict.fromkeys(source.model for source in part.sources))
        return tuple(found)

    def key(self) -> str:
        """Content key: equal for recipes that merge to the same bytes by construction, 16 hex digits."""
        content = {name: value for name, value in asdict(self).items() if name not in ("tokenizer", "notes")}
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def with_notes(self, notes: Mapping[str, Any]) -> "Recipe":
        """The same merge with other notes."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Recipe(**{**values, "notes": dict(notes)})

    def all_settings(self) -> Iterator[tuple[str, Setting]]:
        """Every (name, setting) pair at every level."""
        yield from self.settings.items()
        for part in self.slices:
            yield from part.settings.items()
            for source in part.sources:
                yield from source.settings.items()


def models_form(
    method: str, base: ModelRef | None, sources: tuple[Source, ...], settings: Settings, **rest: Any
) -> Recipe:
    """A recipe in which every source spans all layers."""
    return Recipe(method, base, (Slice(sources),), settings, **rest)
