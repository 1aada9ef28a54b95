"""Reads and writes recipe.yaml: mergekit's schema plus one `evomerge:` block.

The parser accepts what mergekit accepts and logs one warning for each key or parameter that has no effect.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.parsing import Dumper, dump_yaml, parse_yaml
from evomerge.recipes.document import FROZEN_FROM, SCHEMA_VERSION, to_document
from evomerge.recipes.recipe import DTYPES, Recipe, Slice, Source, TensorFile
from evomerge.recipes.settings import RecipeReader, mapping, model_ref
from evomerge.recipes.tokenizer import (
    TOKENIZER_BLOCK_KEYS,
    TOKENIZER_KEYS,
    VOCABULARY_KEYS,
    parse_tokenizer_request,
)

log = logging.getLogger(__name__)

TOP_KEYS = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    *TOKENIZER_KEYS,
    "evomerge",
    "name",
    "write_readme",
)
BLOCK_KEYS = ("schema", "exactness", "seed", "options", "vocabulary", "routers")


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a file of evomerge or mergekit; ConfigError names the file and the key."""
    try:
        document = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        hint = "give a recipe file, such as the recipe.yaml of a run"
        raise ConfigError(f"{path or 'recipe'}: {error.strerror}; {hint}") from None
    except ValueError as error:  # also for text that is not UTF-8
        raise ConfigError(f"{path}: not YAML ({error})") from None
    if not isinstance(document, dict) or "merge_method" not in document:
        raise ConfigError(f"{path}: not a merge recipe; it needs merge_method and models or slices")
    try:
        return _beside(parse_recipe(document, f"{path}: "), Path(path).parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_recipe(document: Mapping[str, Any], where: str = "") -> Recipe:
    """The recipe in a parsed YAML document; warnings about keys without effect begin with `where`."""
    if "modules" in document:
        raise ConfigError("modules is not supported; use models or slices")
    name = str(document.get("merge_method", ""))
    methods.load(name)
    reader = RecipeReader(name, has_evomerge_block="evomerge" in document)
    reader.note_unknown_keys(document, TOP_KEYS)
    if bool(document.get("models")) == bool(document.get("slices")):
        raise ConfigError("; ".join(["give either models or slices, with at least one entry", *reader.ignored]))
    block = mapping(document.get("evomerge"), "evomerge")
    base = document.get("base_model")
    tokenizer, vocabulary = _tokenizer(document, block, reader)
    recipe = Recipe(
        method=name,
        base=model_ref(base) if base else None,
        slices=_slices(document, reader),
        settings=reader.settings(document.get("parameters")),
        out_dtype=_out_dtype(document),
        seed=_seed(block),
        options=methods.choose_options(name, mapping(block.get("options"), "evomerge.options")),
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        notes={key: value for key, value in block.items() if key not in BLOCK_KEYS},
        routers=_routers(block.get("routers")),
    )
    _check_models(recipe)
    for line in reader.ignored:
        log.warning("%s%s", where, line)
    return recipe


def _tokenizer(
    document: Mapping[str, Any], block: Mapping[str, Any], reader: RecipeReader
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The document's tokenizer keys, unchanged, and the field `vocabulary`, empty without `evomerge.vocabulary`.

    ConfigError for a request that is not supported.
    """
    entries = {key: document[key] for key in TOKENIZER_KEYS if document.get(key) is not None}
    if "tokenizer" in entries:
        given = entries["tokenizer"]
        reader.note_unknown_keys(given, TOKENIZER_BLOCK_KEYS, "tokenizer: ")
        entries["tokenizer"] = {key: value for key, value in given.items() if key in TOKENIZER_BLOCK_KEYS}
    if block.get("vocabulary") is None:
        parse_tokenizer_request(entries)
        return entries, {}
    vocabulary = mapping(block["vocabulary"], "evomerge.vocabulary")
    reader.note_unknown_keys(vocabulary, VOCABULARY_KEYS, "evomerge.vocabulary: ")
    return entries, parse_tokenizer_request(entries, vocabulary).plain()


def _routers(value: Any) -> TensorFile | None:
    """The file of calibrated routers that an `evomerge` block names."""
    if value is None:
        return None
    entry = mapping(value, "evomerge.routers")
    if not all(isinstance(entry.get(key), str) for key in ("file", "sha256")):
        raise ConfigError("evomerge.routers: give the file and its sha256, as the run has written them")
    return TensorFile(entry["file"], entry["sha256"])


def _beside(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its file of routers in the folder of the recipe file."""
    routers = recipe.routers
    return replace(recipe, routers=replace(routers, path=str(folder / routers.path))) if routers else recipe


def _seed(block: Mapping[str, Any]) -> int:
    """The seed of an `evomerge` block; ConfigError if the block has a schema that this version cannot read."""
    if block.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ConfigError(
            f"evomerge.schema {block['schema']}: this version reads {SCHEMA_VERSION}; use the one that wrote it"
        )
    for key in ("models", "scores", "versions"):
        mapping(block.get(key), f"evomerge.{key}")
    seed = block.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"evomerge.seed: {seed!r} is not a whole number")
    return seed


def _out_dtype(document: Mapping[str, Any]) -> str | None:
    value = document.get("out_dtype") or document.get("dtype")
    dtype = None if value is None else str(value).removeprefix("torch.")
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"out_dtype {dtype}: choose one of {', '.join(DTYPES)}")
    return dtype


def original_recipe(recipe: Recipe) -> Recipe:
    """The original recipe of a frozen one, in the method that was searched; any other recipe unchanged."""
    document = recipe.notes.get(FROZEN_FROM)
    if not isinstance(document, Mapping):
        return recipe
    found = parse_recipe({"evomerge": {}, **document})
    return replace(found, tokenizer=recipe.tokenizer, vocabulary=recipe.vocabulary, routers=recipe.routers)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, which mergekit-yaml can read if it has the method."""
    return dump_yaml(to_document(recipe), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def _slices(document: Mapping[str, Any], reader: RecipeReader) -> tuple[Slice, ...]:
    base = document.get("base_model")
    if document.get("models"):
        sources = _sources(document["models"], reader, base)
        zero_base = Source(model_ref(base), {"weight": 0.0}) if base else None
        if "weight" in mapping(document.get("parameters"), "parameters"):  # an unlisted base would get this weight
            return (Slice(sources),)
        # A base listed with weight 0 comes from document.py, which adds it for mergekit.
        return (Slice(tuple(source for source in sources if source != zero_base)),)
    slices = []
    for entry in _entries(document["slices"], "slices"):
        reader.note_unknown_keys(entry, ("sources", "base_model", "parameters"), "slices: ")
        slice_base = entry.get("base_model")
        sources = _sources(entry.get("sources"), reader, slice_base or base, layers=True)
        settings = reader.settings(entry.get("parameters"))
        slices.append(Slice(sources, settings, model_ref(slice_base) if slice_base else None))
    return tuple(slices)


def _sources(entries: Any, reader: RecipeReader, base: Any, *, layers: bool = False) -> tuple[Source, ...]:
    keys = ("model", "parameters", *(["layer_range"] if layers else []))
    sources = []
    for entry in _entries(entries, "sources" if layers else "models"):
        reader.note_unknown_keys(entry, keys, "models: ")
        if "model" not in entry:
            raise ConfigError("models: an entry has no model")
        model = model_ref(entry["model"])
        is_base = bool(base) and model == model_ref(base)
        settings = reader.settings(entry.get("parameters"), scope="base" if is_base else "model")
        sources.append(Source(model, settings, _layer_range(entry.get("layer_range")) if layers else None))
    repeated = {source.model for source in sources if sum(other.model == source.model for other in sources) > 1}
    if repeated:
        raise ConfigError(f"{repeated.pop()} is listed twice; give each model once")
    return tuple(sources)


def _layer_range(layers: Any) -> tuple[int, int]:
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
        if methods.copies_one_model(method):
            _check_one_source(recipe.method, part)
            continue
        base = part.base or recipe.base or part.sources[0].model
        if required and not (part.base or recipe.base):
            raise ConfigError(f"{recipe.method} needs a base_model")
        count = len(models - {base}) if required or recipe.base else len(models)
        if not low <= count <= high and not (recipe.method == "linear" and models):
            raise ConfigError(f"{recipe.method} merges {low} model{'s' * (low > 1)} with its base, not {count}")


def _check_one_source(method: str, part: Slice) -> None:
    if len(part.sources) > 1:
        raise ConfigError(f"{method} copies one model in each slice, not {len(part.sources)}; list one source")


def _entries(entries: Any, where: str) -> list[Any]:
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: give a list with at least one entry")
    return entries


class _Dumper(Dumper):
    """Writes lists of numbers on one line, and everything else in block style."""


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.SequenceNode:
    flow = all(isinstance(entry, int | float) for entry in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _represent_list)
