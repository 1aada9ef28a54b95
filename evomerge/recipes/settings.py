"""Parses the `parameters` of a recipe: mergekit's scalars, gradients and filters.

mergekit silently ignores parameters that its method does not read. This module ignores them too, but notes each one.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.parsing import parse_number
from evomerge.recipes.recipe import FilteredValue, ModelRef, Scalar, Setting
from evomerge.schema import Location, as_yaml, check_value
from evomerge.suggest import did_you_mean


@dataclass(frozen=True)
class RecipeReader:
    """Reads the settings of one document and collects in `ignored` one line for each key without effect.

    The method, and whether the document has an `evomerge` block, decide which parameters it reads.
    """

    method: str
    has_evomerge_block: bool
    ignored: dict[str, None] = field(default_factory=dict)  # used as an ordered set

    def settings(self, entries: Any, *, scope: str = "all") -> dict[str, Setting]:
        """The settings that the method reads in this scope: of `all` models, of one `model`, or of the `base`."""
        settings: dict[str, Setting] = {}
        for key, value in mapping(entries, "parameters").items():
            if not self._reads(key, scope):
                self._ignore_parameter(key)
            elif (setting := self._setting(key, value)) is not None:
                settings[key] = setting
        return settings

    def note_unknown_keys(self, entry: Any, known: Iterable[str], where: str = "") -> None:
        """Note the keys of a mapping that are not in `known`; ConfigError if `entry` is not a mapping."""
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{where}{as_yaml(entry)} is not a mapping")
        for key in entry:
            if key not in known:
                self._ignore(
                    f"{where}{as_yaml(key)} has no effect: it is no key of a recipe{did_you_mean(str(key), known)}"
                )

    def _ignore(self, line: str) -> None:
        self.ignored[line] = None

    def _reads(self, key: str, scope: str) -> bool:
        method = methods.load(self.method)
        if not self.has_evomerge_block and key in methods.extensions(method):
            return False
        if scope == "base":
            return key in method.BASE
        return key in method.PER_EXPERT or key in method.BASE or (scope == "all" and key in method.SHARED)

    def _ignore_parameter(self, key: str) -> None:
        method = methods.load(self.method)
        known = [*method.SHARED, *method.PER_EXPERT]
        if not self.has_evomerge_block and key in methods.extensions(method):
            why = f"mergekit's {self.method} does not read it; add an evomerge block to the recipe to have it"
        elif key in method.SHARED:
            why = f"{self.method} reads it for all models only; move it from the model to the top to have it"
        elif key in method.PER_EXPERT:
            why = f"{self.method} reads it of the models that it merges into the base, not of the base"
        else:
            why = f"{self.method} does not read it{did_you_mean(key, known)}"
        self._ignore(f"parameters: {as_yaml(key)} has no effect: {why}")

    def _setting(self, key: str, value: Any) -> Setting | None:
        """A setting in one of mergekit's forms: a scalar, a gradient, or filters with values; None if empty."""
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, list):
            return _scalar(key, value)
        if not any(isinstance(entry, Mapping) for entry in value):
            return tuple(_scalar(key, entry) for entry in value) or None
        filtered = []
        for entry in value:
            if not isinstance(entry, Mapping) or "value" not in entry:
                raise ConfigError(f"parameters: {key}: each entry needs a value, and a filter unless it is the last")
            self.note_unknown_keys(entry, ("filter", "value"), f"parameters: {key}: ")
            inner = entry["value"]
            parsed = tuple(_scalar(key, v) for v in inner) if isinstance(inner, list) else _scalar(key, inner)
            text = entry.get("filter")
            check_value(text, str | None, f"parameters: {key}: filter")
            filtered.append(FilteredValue(None if text == "*" else text, parsed))
        return tuple(filtered)


def mapping(entry: Any, where: str) -> dict[str, Any]:
    """A copy of a mapping with keys as text, empty for null; ConfigError for anything else."""
    if entry is not None and not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: {as_yaml(entry)} is not a mapping")
    for key in entry or {}:
        if not isinstance(key, str):
            raise ConfigError(f"{where}: the key {as_yaml(key)} is no text; write it in quotes")
    return dict(entry or {})


def read_text(value: Any, where: str) -> str:
    """A printable text of one line; ConfigError for anything else, such as a number, whose spelling is lost."""
    check_value(value, Location, where)
    return str(value)


def model_ref(value: Any) -> ModelRef:
    """A model reference from text or from mergekit's mapping {model: {path, revision}, lora: {path, revision}}."""
    if not isinstance(value, Mapping):
        return ModelRef.parse(read_text(value, "model"))
    if value.get("override_architecture"):
        raise ConfigError("override_architecture is not supported; the architecture is read from the model's config")
    model = _path(value.get("model") or {})
    return ModelRef(*model, *(_path(value["lora"]) if value.get("lora") else ()))


def _path(value: Any) -> tuple[str, str | None]:
    if not isinstance(value, Mapping):
        ref = ModelRef.parse(read_text(value, "model"))
        return ref.path, ref.revision
    revision = value.get("revision")
    path = read_text(value.get("path"), "model.path")
    return path, None if revision is None else read_text(revision, "model.revision")


def _scalar(key: str, value: Any) -> Scalar:
    if isinstance(value, bool):
        return value
    try:
        number = parse_number(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        shown = repr(as_yaml(value)) if isinstance(value, str) else as_yaml(value)
        raise ConfigError(f"parameters: {key}: {shown} is not a number") from None
    if not math.isfinite(number):
        raise ConfigError(f"parameters: {key}: {as_yaml(value)} is not a finite number")
    return number
