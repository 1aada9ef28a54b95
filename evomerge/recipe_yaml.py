"""recipe.yaml: mergekit's schema plus one `evomerge:` block, read and written.

Reading is stricter than mergekit, which ignores what it does not know: a misspelt key or parameter is a ConfigError.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.recipe import ModelRef, Recipe, Rule, Scalar, Setting, Slice, Source
from evomerge.recipe_document import FROZEN_FROM, SCHEMA, to_document
from evomerge.suggest import nearest

TOP = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "evomerge",
)
IGNORED = ("name", "write_readme")
UNSUPPORTED = ("modules", "tokenizer", "chat_template")
OUT_DTYPES = ("float32", "bfloat16", "float16")
OWN = ("schema", "exactness", "seed", "options")


def load(path: Path) -> Recipe:
    """The recipe in a file, evomerge's or plain mergekit's; ConfigError names the file and the key."""
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (yaml.YAMLError, ValueError) as error:  # no text, or a number of thousands of digits
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML ({reason})") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a merge recipe; it needs merge_method and models or slices")
    try:
        return parse(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(document: Mapping[str, Any]) -> Recipe:
    """A recipe from a parsed YAML document."""
    _check_keys(document, TOP, UNSUPPORTED, "")
    if ("models" in document) == ("slices" in document):
        raise ConfigError("give either models or slices")
    if document.get("tokenizer_source", "base") != "base":
        raise ConfigError("tokenizer_source: only base is supported; align the vocabularies first")
    name = str(document.get("merge_method", ""))
    method = methods.load(name)
    own = _mapping(document.get("evomerge"), "evomerge")
    if own.get("schema", SCHEMA) != SCHEMA:
        raise ConfigError(f"evomerge.schema {own['schema']}: this version reads {SCHEMA}; use the one that wrote it")
    for key in ("models", "scores", "versions"):
        _mapping(own.get(key), f"evomerge.{key}")
    seed = own.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"evomerge.seed: {seed!r} is not a whole number")
    out_dtype = document.get("out_dtype") or document.get("dtype")
    if out_dtype not in (None, *OUT_DTYPES):
        raise ConfigError(f"out_dtype {out_dtype}: choose of {', '.join(OUT_DTYPES)}")
    base = document.get("base_model")
    recipe = Recipe(
        method=name,
        base=ModelRef.parse(str(base)) if base else None,
        slices=_slices(document, method),
        settings=_settings(document.get("parameters"), method, shared=True),
        out_dtype=out_dtype,
        seed=seed,
        options=methods.choose_options(name, _mapping(own.get("options"), "evomerge.options")),
        notes={key: value for key, value in own.items() if key not in OWN},
    )
    _check_models(recipe)
    return recipe


def original(recipe: Recipe) -> Recipe:
    """The merge as it was searched, of a recipe that holds its coefficients as plain weights."""
    document = recipe.notes.get(FROZEN_FROM)
    return parse(document) if isinstance(document, Mapping) else recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that mergekit-yaml reads unchanged, wherever it has the method."""
    return yaml.dump(to_document(recipe), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def _slices(document: Mapping[str, Any], method: methods.Method) -> tuple[Slice, ...]:
    if "models" in document:
        sources = _sources(document["models"], method, ("model", "parameters"))
        silent = Source(ModelRef.parse(str(document.get("base_model"))), {"weight": 0.0})
        if "weight" in (document.get("parameters") or {}):  # which an unlisted base would have
            return (Slice(sources),)
        return (Slice(tuple(source for source in sources if source != silent)),)  # see _body
    found = []
    for entry in _listed(document["slices"], "slices"):
        _check_keys(entry, ("sources", "base_model", "parameters"), (), "slices: ")
        base = entry.get("base_model")
        sources = _sources(entry.get("sources"), method, ("model", "layer_range", "parameters"))
        if any(source.layers is None for source in sources):
            raise ConfigError("slices: every source needs a layer_range [first, last)")
        settings = _settings(entry.get("parameters"), method, shared=True)
        found.append(Slice(sources, settings, ModelRef.parse(str(base)) if base else None))
    return tuple(found)


def _sources(entries: Any, method: methods.Method, keys: tuple[str, ...]) -> tuple[Source, ...]:
    found = []
    for entry in _listed(entries, "models"):
        _check_keys(entry, keys, (), "models: ")
        if "model" not in entry:
            raise ConfigError("models: an entry has no model")
        layers = entry.get("layer_range")
        if layers is not None and not _is_range(layers):
            raise ConfigError(f"layer_range {layers}: give [first, last)")
        settings = _settings(entry.get("parameters"), method, shared=False)
        span = (int(layers[0]), int(layers[1])) if layers else None
        found.append(Source(ModelRef.parse(str(entry["model"])), settings, span))
    doubled = {source.model for source in found if sum(other.model == source.model for other in found) > 1}
    if doubled:
        raise ConfigError(f"{doubled.pop()} is listed twice; give each model once")
    return tuple(found)


def _settings(entries: Any, method: methods.Method, *, shared: bool) -> dict[str, Setting]:
    known = set(method.PER_EXPERT) | set(method.BASE) | (set(method.SHARED) if shared else set())
    found: dict[str, Setting] = {}
    for key, value in _mapping(entries, "parameters").items():
        if key in method.SHARED and not shared:
            raise ConfigError(f"parameters: {key} is one for all models; move it from the model to the top")
        if key not in known:
            raise ConfigError(f"parameters: {key} is unknown{nearest(key, known)}; the method has {sorted(known)}")
        if (setting := _setting(key, value)) is not None:
            found[key] = setting
    return found


def _setting(key: str, value: Any) -> Setting | None:
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
        _check_keys(entry, ("filter", "value"), (), f"parameters: {key}: ")
        inner = entry["value"]
        span = tuple(_scalar(key, v) for v in inner) if isinstance(inner, list) else _scalar(key, inner)
        rules.append(Rule(None if entry.get("filter") in (None, "*") else str(entry["filter"]), span))
    return tuple(rules)


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


def _check_models(recipe: Recipe) -> None:
    method = methods.load(recipe.method)
    (low, high), required = method.EXPERTS, method.BASE_MODEL == "required"
    for part in recipe.slices:
        models = {source.model for source in part.sources}
        base = part.base or recipe.base or part.sources[0].model
        if required and not (part.base or recipe.base):
            raise ConfigError(f"{recipe.method} needs a base_model")
        count = len(models - {base}) if required or recipe.base else len(models)
        if not low <= count <= high and not (recipe.method == "linear" and models):
            raise ConfigError(f"{recipe.method} merges {low} model{'s' * (low > 1)} with its base, not {count}")


def _check_keys(entry: Any, known: Iterable[str], unsupported: Iterable[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}{entry!r} is not a mapping")
    for key in entry:
        if key in unsupported:
            raise ConfigError(f"{where}{key} is not supported; use models or slices, and the base's tokenizer")
        if key not in known and key not in IGNORED:
            raise ConfigError(f"{where}unknown key {key}{nearest(key, known)}")


def _mapping(entry: Any, where: str) -> dict[str, Any]:
    if entry is not None and not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: {entry!r} is not a mapping")
    return dict(entry or {})


def _is_range(layers: Any) -> bool:
    return isinstance(layers, list) and len(layers) == 2 and all(type(layer) is int for layer in layers)


def _listed(entries: Any, where: str) -> list[Any]:
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: give a list with at least one entry")
    return entries


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, everything else in blocks, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.SequenceNode:
    flow = all(isinstance(entry, int | float) for entry in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _represent_list)
