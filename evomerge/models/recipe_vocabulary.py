"""The vocabulary and the tokenizer files of one recipe of a family."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, ExpertError
from evomerge.models.auto_classes import model_config
from evomerge.models.checkpoint import read_json
from evomerge.models.family import Family
from evomerge.models.live_model import load_tokenizer
from evomerge.models.merged_tokenizer import tokenizer_folder
from evomerge.models.vocabulary import differing_tokens, requested_vocabulary
from evomerge.models.vocabulary_tensors import ROWS_KEY
from evomerge.recipes import AUTO_TEMPLATE, ModelRef, Recipe, request_of

TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"
FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", TEMPLATE)


def with_vocabulary(recipe: Recipe, family: Family) -> Recipe:
    """The recipe with its field `vocabulary`, by which its key tells it from recipes with other rows.

    The field stays empty where the requested vocabulary has the rows of the models.
    """
    is_requested = family.vocabulary is not None and family.vocabulary.request is not None
    return replace(recipe, vocabulary=request_of(recipe).plain() if is_requested else {})


def refuse_lost_rows(recipe: Recipe, family: Family) -> None:
    """ConfigError if a merge of the recipe alone would have other rows than the search, as it lacks the base.

    Without a requested vocabulary the rows are those of the first model of a recipe.
    """
    found, first = family.vocabulary, recipe.models()[0]
    if found is None or found.request is not None:
        return
    if (rows := found.rows.get(first, found.plan.size)) != found.plan.size:
        raise ConfigError(
            f"{first} has {rows} rows of its vocabulary, the base has {found.plan.size}, and {recipe.method} merges "
            "without the base; set tokenizer.source=base"
        )


def in_vocabulary_of(recipe: Recipe, family: Family, vocabulary: Mapping[str, Any]) -> Recipe:
    """The recipe with the vocabulary of a search; ConfigError if it requests other rows."""
    request, found = request_of(recipe), family.vocabulary
    if request.key is not None:
        axes = found.axes if found else {}
        rows = found.rows if found else family.row_counts()
        models = (*recipe.models(), *request.models)
        known = {ref: count for ref, count in rows.items() if ref in models or ref == family.ref}
        other = requested_vocabulary(request, family.ref, known, axes, family.base.trust_remote_code)
        same = other is None if found is None else other is not None and found.plan.agrees_with(other.plan)
        if not same:
            raise ConfigError(
                f"{request.key}: it makes another vocabulary than the search's; leave it out, or set tokenizer in the "
                "search"
            )
    return replace(recipe, vocabulary=vocabulary)


def other_tokens(family: Family) -> Iterator[tuple[ModelRef, str]]:
    """Each expert whose tokenizer has other tokens than the base's, with what happens to them and the key to set."""
    return differing_tokens(family.ref, family.experts, family.base.trust_remote_code)


def write_tokenizer(recipe: Recipe, family: Family, folder: Path) -> None:
    """Replace the base's tokenizer files and chat template in `folder` by those that the recipe requests."""
    request, vocabulary = request_of(recipe), family.vocabulary
    is_new = vocabulary is not None and vocabulary.tokenizer is not None
    copied = request.source if isinstance(request.source, ModelRef) else family.ref
    if is_new or copied != family.ref:
        for file in _files(folder):
            file.unlink()
        for file in _files(tokenizer_folder(copied)):
            shutil.copyfile(file, folder / file.name)
    trust = family.base.trust_remote_code
    if is_new and family.load_tokenizer().get_vocab() != load_tokenizer(folder, trust).get_vocab():
        for file in _files(folder):
            file.unlink()
        family.load_tokenizer().save_pretrained(folder)
    template = _most_common(recipe, family) if request.template == AUTO_TEMPLATE else request.template
    if template:
        (folder / TEMPLATE).write_text(template)
        if (path := folder / "tokenizer_config.json").is_file():
            settings = {key: value for key, value in read_json(path).items() if key != "chat_template"}
            path.write_text(json.dumps(settings, indent=2) + "\n")


def set_vocabulary(config: dict[str, Any], family: Family) -> None:
    """Set the number of rows and the ids of special tokens in the contents of config.json."""
    if (vocabulary := family.vocabulary) is None:
        return
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    holders = [section for section in sections if section.get(ROWS_KEY) == vocabulary.rows[family.ref]]
    for section in holders or [config.get("text_config", config)]:
        section[ROWS_KEY] = vocabulary.plan.size
    full = model_config(family.base.folder, family.base.trust_remote_code).to_dict()
    changes = vocabulary.token_ids({**full, **config}, "config.json")
    config |= changes
    for section in sections[1:]:
        section |= {key: value for key, value in changes.items() if key in section}


def write_generation_config(family: Family, folder: Path) -> None:
    """Set the ids of special tokens in the copy of the base's generation_config.json."""
    path = folder / GENERATION
    if family.vocabulary is None or not path.is_file():
        return
    values = read_json(path)
    if changes := family.vocabulary.token_ids(values, GENERATION):
        path.write_text(json.dumps(values | changes, indent=2) + "\n")


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file() and any(file.match(pattern) for pattern in FILES)]


def _most_common(recipe: Recipe, family: Family) -> str | None:
    """The most frequent chat template, the first one in case of a tie; None if no model has one."""
    counts = Counter[str]()
    for ref in recipe.models():
        try:
            template = load_tokenizer(tokenizer_folder(ref), family.base.trust_remote_code).chat_template
        except ExpertError:
            continue
        text = template.get("default") if isinstance(template, dict) else template
        if text:
            counts[text.strip()] += 1
    return counts.most_common(1)[0][0] if counts else None
