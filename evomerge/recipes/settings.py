"""The `parameters` of a recipe: mergekit's scalars, gradients and filters, and which of them a method reads where.

mergekit passes over whatever its method does not read. So does this, with a line that says so.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.recipes.recipe import ModelRef, Rule, Scalar, Setting
from evomerge.suggest import nearest


@dataclass(frozen=True)
class Document:
    """What decides whether a key of a recipe is read: its method, and whether the recipe is evomerge's own.

    `ignored` gets a line for every key without effect.
    """

    method: str
    own: bool
    ignored: dict[str, None] = field(default_factory=dict)

    def settings(self, entries: Any, *, of: str = "all") -> dict[str, Setting]:
        """The settings of `all` models, of one `model`, or of the `base`, as far as the method reads them there."""
        found: dict[str, Setting] = {}
        for key, value in mapping(entries, "parameters").items():
            if not self._reads(key, of):
                self._ignore_parameter(key, of)
            elif (setting := self._setting(key, value)) is not None:
                found[key] = setting
        return found

    def pass_over(self, entry: Any, known: Iterable[str], where: str = "") -> None:
        """Note the keys of a mapping that nobody reads; ConfigError where it is no mapping."""
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{where}{entry!r} is not a mapping")
        for key in entry:
            if key not in known:
                self._ignore(f"{where}{key} has no effect: it is no key of a recipe{nearest(str(key), known)}")

    def _ignore(self, line: str) -> None:
        self.ignored[line] = None

    def _reads(self, key: str, of: str) -> bool:
        method = methods.load(self.method)
        if not self.own and key in methods.extensions(method):
            return False
        if of == "base":
            return key in method.BASE
        return key in method.PER_EXPERT or key in method.BASE or (of == "all" and key in method.SHARED)

    def _ignore_parameter(self, key: str, of: str) -> None:
        method = methods.load(self.method)
        known = [*method.SHARED, *method.PER_EXPERT]
        if not self.own and key in methods.extensions(method):
            why = f"mergekit's {self.method} does not read it; add an evomerge block to the recipe to have it"
        elif key in method.SHARED:
            why = f"{self.method} reads it for all models only; move it from the model to the top to have it"
        elif key in method.PER_EXPERT:
            why = f"{self.method} reads it of the models that it merges into the base, not of the base"
        else:
            why = f"{self.method} does not read it{nearest(key, known)}"
        self._ignore(f"parameters: {key} has no effect: {why}")

    def _setting(self, key: str, value: Any) -> Setting | None:
        """mergekit's three forms: a scalar, a gradient, a (list of) filter and value; an empty list is no setting."""
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, list):
            return _scalar(key, value)
        if not any(isinstance(entry, Mapping) for entry in value):
            return tuple(_scalar(key, entry) for entry in value) or None
        rules = []
        for entry in value:
            if not isinstance(entry, Mapping) or "value" not in entry:
                raise ConfigError(f"parameters: {key}: each entry needs a value, and a filter unless it is the last")
            self.pass_over(entry, ("filter", "value"), f"parameters: {key}: ")
            inner = entry["value"]
            span = tuple(_scalar(key, v) for v in inner) if isinstance(inner, list) else _scalar(key, inner)
            rules.append(Rule(None if entry.get("filter") in (None, "*") else str(entry["filter"]), span))
        return tuple(rules)


def mapping(entry: Any, where: str) -> dict[str, Any]:
    """A copy of a mapping, empty for null; anything else is a ConfigError."""
    if entry is not None and not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: {entry!r} is not a mapping")
    return {str(key): value for key, value in (entry or {}).items()}


def model_ref(given: Any) -> ModelRef:
    """A model as text, or as mergekit spells it out: {model: {path, revision}, lora: {path, revision}}."""
    if not isinstance(given, Mapping):
        return ModelRef.parse(str(given))
    if given.get("override_architecture"):
        raise ConfigError("override_architecture is not supported; the architecture is read from the model's config")
    model = _path(given.get("model") or {})
    return ModelRef(*model, *(_path(given["lora"]) if given.get("lora") else ()))


def _path(given: Any) -> tuple[str, str | None]:
    if not isinstance(given, Mapping):
        found = ModelRef.parse(str(given))
        return found.path, found.revision
    if not given.get("path"):
        raise ConfigError("model: give a path")
    return str(given["path"]), given.get("revision")


def _scalar(key: str, value: Any) -> Scalar:
    if isinstance(value, bool):
        return value
    try:
        number = float(value)  # YAML 1.1 reads 1e-3 as a string
    except (TypeError, ValueError):
        raise ConfigError(f"parameters: {key}: {value!r} is not a number") from None
    if not math.isfinite(number):
        raise ConfigError(f"parameters: {key}: {value} is not a finite number")
    return number
