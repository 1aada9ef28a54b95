"""recipe.yaml: mergekit's schema plus one `evomerge:` block, read and written.

Reading takes what mergekit takes, and says in one line which key or parameter has no effect.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.recipes.document import FROZEN_FROM, SCHEMA, to_document
from evomerge.recipes.recipe import DTYPES, Recipe, Slice, Source
from evomerge.recipes.settings import Document, mapping, model_ref
from evomerge.recipes.tokenizer import INNER_KEYS, KEYS, read_request

log = logging.getLogger(__name__)

TOP = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    *KEYS,
    "evomerge",
    "name",
    "write_readme",
)
OWN = ("schema", "exactness", "seed", "options")


def load_recipe(path: Path) -> Recipe:
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
        return parse_recipe(document, f"{path}: ")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_recipe(document: Mapping[str, Any], where: str = "") -> Recipe:
    """A recipe from a parsed YAML document; lines about keys without effect begin with `where`."""
    if "modules" in document:
        raise ConfigError("modules is not supported; use models or slices")
    name = str(document.get("merge_method", ""))
    methods.load(name)
    reading = Document(name, own="evomerge" in document)
    reading.pass_over(document, TOP)
    if bool(document.get("models")) == bool(document.get("slices")):
        raise ConfigError("; ".join(["give either models or slices, with at least one entry", *reading.ignored]))
    own = mapping(document.get("evomerge"), "evomerge")
    base = document.get("base_model")
    recipe = Recipe(
        method=name,
        base=model_ref(base) if base else None,
        slices=_slices(document, reading),
        settings=reading.settings(document.get("parameters")),
        out_dtype=_out_dtype(document),
        seed=_seed(own),
        options=methods.choose_options(name, mapping(own.get("options"), "evomerge.options")),
        tokenizer=_tokenizer(document, reading),
        notes={key: value for key, value in own.items() if key not in OWN},
    )
    _check_models(recipe)
    for line in reading.ignored:
        log.warning("%s%s", where, line)
    return recipe


def _tokenizer(document: Mapping[str, Any], reading: Document) -> dict[str, Any]:
    """The keys about the tokenizer, as they stand; ConfigError for what cannot be had."""
    found = {key: document[key] for key in KEYS if document.get(key) is not None}
    if "tokenizer" in found:
        reading.pass_over(found["tokenizer"], INNER_KEYS, "tokenizer: ")
        found["tokenizer"] = {key: value for key, value in found["tokenizer"].items() if key in INNER_KEYS}
    read_request(found)
    return found


def _seed(own: Mapping[str, Any]) -> int:
    """The seed of an `evomerge` block; ConfigError where the block is not of the form that this version reads."""
    if own.get("schema", SCHEMA) != SCHEMA:
        raise ConfigError(f"evomerge.schema {own['schema']}: this version reads {SCHEMA}; use the one that wrote it")
    for key in ("models", "scores", "versions"):
        mapping(own.get(key), f"evomerge.{key}")
    seed = own.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"evomerge.seed: {seed!r} is not a whole number")
    return seed


def _out_dtype(document: Mapping[str, Any]) -> str | None:
    given = document.get("out_dtype") or document.get("dtype")
    found = None if given is None else str(given).removeprefix("torch.")
    if found not in (None, *DTYPES):
        raise ConfigError(f"out_dtype {found}: choose of {', '.join(DTYPES)}")
    return found


def original_recipe(recipe: Recipe) -> Recipe:
    """The merge as it was searched, of a recipe that holds its coefficients as plain weights."""
    document = recipe.notes.get(FROZEN_FROM)
    return parse_recipe({"evomerge": {}, **document}) if isinstance(document, Mapping) else recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that mergekit-yaml reads unchanged, wherever it has the method."""
    return yaml.dump(to_document(recipe), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def _slices(document: Mapping[str, Any], reading: Document) -> tuple[Slice, ...]:
    base = document.get("base_model")
    if document.get("models"):
        sources = _sources(document["models"], reading, base)
        silent = Source(model_ref(base), {"weight": 0.0}) if base else None
        if "weight" in (document.get("parameters") or {}):  # which an unlisted base would have
            return (Slice(sources),)
        return (Slice(tuple(source for source in sources if source != silent)),)  # see _body
    found = []
    for entry in _listed(document["slices"], "slices"):
        reading.pass_over(entry, ("sources", "base_model", "parameters"), "slices: ")
        own = entry.get("base_model")
        sources = _sources(entry.get("sources"), reading, own or base, layers=True)
        settings = reading.settings(entry.get("parameters"))
        found.append(Slice(sources, settings, model_ref(own) if own else None))
    return tuple(found)


def _sources(entries: Any, reading: Document, base: Any, *, layers: bool = False) -> tuple[Source, ...]:
    keys = ("model", "parameters", *(["layer_range"] if layers else []))
    found = []
    for entry in _listed(entries, "sources" if layers else "models"):
        reading.pass_over(entry, keys, "models: ")
        if "model" not in entry:
            raise ConfigError("models: an entry has no model")
        model = model_ref(entry["model"])
        settings = reading.settings(
            entry.get("parameters"), of="base" if base and model == model_ref(base) else "model"
        )
        found.append(Source(model, settings, _span(entry.get("layer_range")) if layers else None))
    doubled = {source.model for source in found if sum(other.model == source.model for other in found) > 1}
    if doubled:
        raise ConfigError(f"{doubled.pop()} is listed twice; give each model once")
    return tuple(found)


def _span(layers: Any) -> tuple[int, int]:
    if layers is None:
        raise ConfigError("slices: every source needs a layer_range [first, last)")
    if not (isinstance(layers, list) and len(layers) == 2 and all(type(layer) is int for layer in layers)):
        raise ConfigError(f"layer_range {layers}: give [first, last)")
    return layers[0], layers[1]


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
