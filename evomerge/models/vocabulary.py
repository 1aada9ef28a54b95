"""The tokenizer of a merged model: merging never changes a vocabulary, so a recipe may ask for what all models have."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from evomerge.errors import ConfigError, ExpertError
from evomerge.models.checkpoint import fetch, read_json
from evomerge.models.family import Family
from evomerge.models.live_model import load_tokenizer
from evomerge.recipes import AUTO_TEMPLATE, ModelRef, Recipe, TokenizerRequest, parse_tokenizer_request

TEMPLATE = "chat_template.jinja"
FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", TEMPLATE)
Vocabulary = dict[str, int]


def refuse_other_vocabulary(recipe: Recipe, family: Family) -> None:
    """ConfigError where a recipe asks for a vocabulary that would give other rows than the models have."""
    asked = parse_tokenizer_request(recipe.tokenizer)
    if asked.key is None:
        return
    rows = _rows(family)
    own = _vocabulary(family.base.folder, family, rows)
    if sorted(own.values()) != list(range(rows or len(own))):
        raise ConfigError(
            f"{asked.key}: the tokenizer of {family.ref} names {len(own)} of the models' {rows} rows, and mergekit "
            f"would drop the others; leave {asked.key} out to keep them"
        )
    _refuse_new_rows(asked, own)
    for ref in _asked_of(asked, recipe):
        if (theirs := _known(ref, asked, family, rows)) is not None and theirs != own:
            token = min(dict(theirs.items() ^ own.items()))
            raise ConfigError(
                f"{asked.key}: {ref} has another vocabulary than {family.ref} (the token {token!r}, say); "
                f"align the vocabularies first"
            )


def write_tokenizer(recipe: Recipe, family: Family, folder: Path) -> None:
    """Put the tokenizer files and the chat template that a recipe asks for in place of the base's in `folder`."""
    asked = parse_tokenizer_request(recipe.tokenizer)
    if isinstance(asked.source, ModelRef):
        for file in _files(folder):
            file.unlink()
        for file in _files(_folder(asked.source)):
            shutil.copyfile(file, folder / file.name)
    template = _most_common(recipe, family) if asked.template == AUTO_TEMPLATE else asked.template
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
    """Token → row; tokens beyond the rows do not count (as in mergekit)."""
    tokens = load_tokenizer(folder, family.base.trust_remote_code).get_vocab()
    return {token: row for token, row in tokens.items() if rows is None or row < rows}


def _refuse_new_rows(asked: TokenizerRequest, own: Vocabulary) -> None:
    if new := [token for token in asked.tokens if token not in own]:
        raise ConfigError(f"tokenizer: tokens: {new[0]} is not in the vocabulary; add it to every model first")
    if len(own) % asked.pad_to:
        raise ConfigError(
            f"tokenizer: pad_to_multiple_of: {asked.pad_to} would add rows to the models' {len(own)}; leave it out"
        )


def _asked_of(asked: TokenizerRequest, recipe: Recipe) -> Iterator[ModelRef]:
    yield from recipe.models()
    if isinstance(asked.source, ModelRef):
        yield asked.source


def _known(ref: ModelRef, asked: TokenizerRequest, family: Family, rows: int | None) -> Vocabulary | None:
    """A model's vocabulary; one without a tokenizer is taken to have the base's (as in mergekit)."""
    try:
        return _vocabulary(_folder(ref), family, rows)
    except ExpertError:
        if ref == asked.source:
            raise
        return None


def _folder(ref: ModelRef) -> Path:
    return fetch(ref.path, ref.revision, weights=False)


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file() and any(file.match(pattern) for pattern in FILES)]


def _most_common(recipe: Recipe, family: Family) -> str | None:
    """The template that most models have, of equals that of the first; None where nobody has one."""
    found = Counter[str]()
    for ref in recipe.models():
        try:
            template = load_tokenizer(_folder(ref), family.base.trust_remote_code).chat_template
        except ExpertError:
            continue
        text = template.get("default") if isinstance(template, dict) else template
        if text:
            found[text.strip()] += 1
    return found.most_common(1)[0][0] if found else None
