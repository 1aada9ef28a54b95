"""The tokenizer of a merged model. A merge does not change the vocabulary: a recipe may only request the common one."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from evomerge.errors import ConfigError, ExpertError
from evomerge.models.checkpoint import fetch, read_json
from evomerge.models.dequantised import plain_folder
from evomerge.models.family import Family
from evomerge.models.live_model import load_tokenizer
from evomerge.recipes import AUTO_TEMPLATE, ModelRef, Recipe, TokenizerRequest, parse_tokenizer_request

TEMPLATE = "chat_template.jinja"
FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", TEMPLATE)
Vocabulary = dict[str, int]


def refuse_other_vocabulary(recipe: Recipe, family: Family) -> None:
    """ConfigError if the recipe requests a vocabulary with other rows than the models have."""
    request = parse_tokenizer_request(recipe.tokenizer)
    if request.key is None:
        return
    rows = _rows(family)
    vocabulary = _vocabulary(family.base.folder, family, rows)
    if sorted(vocabulary.values()) != list(range(rows or len(vocabulary))):
        raise ConfigError(
            f"{request.key}: the tokenizer of {family.ref} names {len(vocabulary)} of the models' {rows} rows, and "
            f"mergekit would drop the others; leave {request.key} out to keep them"
        )
    _refuse_new_rows(request, vocabulary)
    for ref in _requested_models(request, recipe):
        if (other := _known(ref, request, family, rows)) is not None and other != vocabulary:
            token = min(dict(other.items() ^ vocabulary.items()))
            raise ConfigError(
                f"{request.key}: {ref} has another vocabulary than {family.ref} (the token {token!r}, say); "
                f"align the vocabularies first"
            )


def write_tokenizer(recipe: Recipe, family: Family, folder: Path) -> None:
    """Replace the base's tokenizer files and chat template in `folder` by those that the recipe requests."""
    request = parse_tokenizer_request(recipe.tokenizer)
    if isinstance(request.source, ModelRef):
        for file in _files(folder):
            file.unlink()
        for file in _files(_folder(request.source)):
            shutil.copyfile(file, folder / file.name)
    template = _most_common(recipe, family) if request.template == AUTO_TEMPLATE else request.template
    if template:
        (folder / TEMPLATE).write_text(template)
        if (path := folder / "tokenizer_config.json").is_file():
            settings = {key: value for key, value in read_json(path).items() if key != "chat_template"}
            path.write_text(json.dumps(settings, indent=2) + "\n")


def _rows(family: Family) -> int | None:
    config = family.base.checkpoint.config
    found = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return None if found is None else int(found)


def _vocabulary(folder: Path, family: Family, rows: int | None) -> Vocabulary:
    """Token → row, without tokens beyond the last row (as in mergekit)."""
    tokens = load_tokenizer(folder, family.base.trust_remote_code).get_vocab()
    return {token: row for token, row in tokens.items() if rows is None or row < rows}


def _refuse_new_rows(request: TokenizerRequest, vocabulary: Vocabulary) -> None:
    if new := [token for token in request.tokens if token not in vocabulary]:
        raise ConfigError(f"tokenizer: tokens: {new[0]} is not in the vocabulary; add it to every model first")
    if len(vocabulary) % request.pad_to:
        raise ConfigError(
            f"tokenizer: pad_to_multiple_of: {request.pad_to} would add rows to the models' "
            f"{len(vocabulary)}; leave it out"
        )


def _requested_models(request: TokenizerRequest, recipe: Recipe) -> Iterator[ModelRef]:
    yield from recipe.models()
    if isinstance(request.source, ModelRef):
        yield request.source


def _known(ref: ModelRef, request: TokenizerRequest, family: Family, rows: int | None) -> Vocabulary | None:
    """A model's vocabulary, or None if it has no tokenizer; it then counts as the base's (as in mergekit)."""
    try:
        return _vocabulary(_folder(ref), family, rows)
    except ExpertError:
        if ref == request.source:
            raise
        return None


def _folder(ref: ModelRef) -> Path:
    return plain_folder(fetch(ref.path, ref.revision, weights=False))


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file() and any(file.match(pattern) for pattern in FILES)]


def _most_common(recipe: Recipe, family: Family) -> str | None:
    """The most frequent chat template, the first one in case of a tie; None if no model has one."""
    counts = Counter[str]()
    for ref in recipe.models():
        try:
            template = load_tokenizer(_folder(ref), family.base.trust_remote_code).chat_template
        except ExpertError:
            continue
        text = template.get("default") if isinstance(template, dict) else template
        if text:
            counts[text.strip()] += 1
    return counts.most_common(1)[0][0] if counts else None
