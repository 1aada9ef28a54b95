"""recipe.yaml: mergekit's schema plus one `evomerge:` block, read and written.

Reading is stricter than mergekit, which ignores what it does not know: a misspelt key or parameter is a ConfigError.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.recipe import ModelRef, Recipe, Rule, Scalar, Setting, Slice, Source
from evomerge.suggest import nearest

SCHEMA = 1
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
OWN = ("schema", "exactness", "seed", "options")


def load(path: Path) -> Recipe:
    """The recipe in a file, evomerge's or plain mergekit's; ConfigError names the file and the key."""
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
    own = dict(document.get("evomerge") or {})
    base = document.get("base_model")
    recipe = Recipe(
        method=name,
        base=ModelRef.parse(str(base)) if base else None,
        slices=_slices(document, method),
        settings=_settings(document.get("parameters"), method, shared=True),
        out_dtype=document.get("out_dtype") or document.get("dtype"),
        seed=int(own.get("seed", 0)),
        options=methods.choose_options(name, own.get("options") or {}),
        notes={key: value for key, value in own.items() if key not in OWN},
    )
    _check_models(recipe)
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that mergekit-yaml reads unchanged, wherever it has the method."""
    return yaml.dump(to_document(recipe), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def to_document(recipe: Recipe) -> dict[str, Any]:
    """The YAML document as plain objects; `parse` is its inverse."""
    document: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.base:
        document["base_model"] = str(recipe.base)
    document |= _body(recipe)
    if recipe.settings:
        document["parameters"] = {key: _plain(value) for key, value in recipe.settings.items()}
    document["dtype"] = "float32"  # computed in fp32 by both, and rounded once
    if recipe.out_dtype:
        document["out_dtype"] = recipe.out_dtype
    grade = methods.exactness(recipe.method, recipe.options)
    document["evomerge"] = {
        "schema": SCHEMA,
        "exactness": grade,
        "seed": recipe.seed,
        "options": dict(recipe.options),
    }
    document["evomerge"] |= dict(recipe.notes)
    return document


def _body(recipe: Recipe) -> dict[str, Any]:
    if any(source.layers for part in recipe.slices for source in part.sources):
        return {"slices": [_slice(part) for part in recipe.slices]}
    sources = list(recipe.slices[0].sources)
    if recipe.method == "linear" and recipe.base and recipe.base not in [source.model for source in sources]:
        # mergekit adds an unlisted base without a weight, and then refuses it
        sources.append(Source(recipe.base, {"weight": 0.0}))
    return {"models": [_source(source) for source in sources]}


def _slice(part: Slice) -> dict[str, Any]:
    found: dict[str, Any] = {"sources": [_source(source) for source in part.sources]}
    if part.base:
        found["base_model"] = str(part.base)
    if part.settings:
        found["parameters"] = {key: _plain(value) for key, value in part.settings.items()}
    return found


def _source(source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {"model": str(source.model)}
    if source.layers:
        found["layer_range"] = list(source.layers)
    if source.settings:
        found["parameters"] = {key: _plain(value) for key, value in source.settings.items()}
    return found


def _plain(setting: Setting) -> Any:
    if not isinstance(setting, tuple):
        return setting
    return [_rule(entry) if isinstance(entry, Rule) else entry for entry in setting]


def _rule(rule: Rule) -> dict[str, Any]:
    value = list(rule.value) if isinstance(rule.value, tuple) else rule.value
    return {"value": value} if rule.filter is None else {"filter": rule.filter, "value": value}


def _slices(document: Mapping[str, Any], method: methods.Method) -> tuple[Slice, ...]:
    if "models" in document:
        sources = _sources(document["models"], method, ("model", "parameters"))
        silent = Source(ModelRef.parse(str(document.get("base_model"))), {"weight": 0.0})
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
        if layers is not None and (not isinstance(layers, list) or len(layers) != 2):
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
    for key, value in (entries or {}).items():
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
    if isinstance(value, bool | int | float):
        return value if isinstance(value, bool) else float(value)
    try:
        return float(value)  # YAML 1.1 reads 1e-3 as a string
    except (TypeError, ValueError):
        raise ConfigError(f"parameters: {key}: {value!r} is not a number") from None


def _check_models(recipe: Recipe) -> None:
    low, high = methods.load(recipe.method).EXPERTS
    for part in recipe.slices:
        models = {source.model for source in part.sources}
        base = part.base or recipe.base or part.sources[0].model
        if recipe.method != "linear" and not (part.base or recipe.base):
            raise ConfigError(f"{recipe.method} needs a base_model")
        count = len(models - {base})
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
