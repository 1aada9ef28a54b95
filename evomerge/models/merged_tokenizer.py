"""Tokenizers: the tokens of each model, whether text is split in one way, and the tokenizer of a merged vocabulary."""

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evomerge.errors import ConfigError, ExpertError
from evomerge.models.checkpoint import fetch
from evomerge.models.dequantised import plain_folder
from evomerge.models.live_model import load_tokenizer
from evomerge.recipes import ModelRef, TokenizerRequest

Tokens = Mapping[str, int]  # token → row
SHOWN = 60  # characters of a difference


def read_tokenizers(refs: Iterable[ModelRef], trust_remote_code: bool) -> dict[ModelRef, PreTrainedTokenizerBase]:
    """The tokenizer of each model that has one, by its checkpoint; that of an adapter is its base's, as in mergekit."""
    by_folder: dict[Path, PreTrainedTokenizerBase | None] = {}
    for folder in (folders := {ref: tokenizer_folder(ref) for ref in refs}).values():
        if folder not in by_folder:
            try:
                by_folder[folder] = load_tokenizer(folder, trust_remote_code)
            except ExpertError:
                by_folder[folder] = None
    found = {ref: by_folder[folder] for ref, folder in folders.items()}
    return {ref: tokenizer for ref, tokenizer in found.items() if tokenizer is not None}


def tokenizer_folder(ref: ModelRef) -> Path:
    """The folder with a model's tokenizer."""
    return plain_folder(fetch(ref.path, ref.revision, weights=False))


def refuse_other_splits(base: ModelRef, tokenizers: Mapping[ModelRef, PreTrainedTokenizerBase], key: str) -> None:
    """ConfigError with the first difference if a model splits text in another way than the base."""
    seen: dict[int, dict[str, Any] | None] = {}
    for ref, tokenizer in tokenizers.items():
        for one in (tokenizers[base], tokenizer):
            if id(one) not in seen:
                seen[id(one)] = _description(one)
        if tokenizer is tokenizers[base]:
            continue
        if difference := _difference(seen[id(tokenizers[base])], seen[id(tokenizer)], tokenizers[base], tokenizer):
            raise ConfigError(
                f"{key}: {ref} splits text in another way than {base}: {difference}; only models with one way of "
                "splitting have a common vocabulary"
            )


def merged_tokenizer(
    request: TokenizerRequest, base: ModelRef, tokenizers: Mapping[ModelRef, PreTrainedTokenizerBase], trust: bool
) -> PreTrainedTokenizerBase:
    """The tokenizer of the merged model: a copy of the requested one, with the tokens that the request adds.

    `union` is the base's with the tokens of the other models after its own: of each model first the tokens of its
    vocabulary, then its added tokens, each by its row.
    """
    found = copy.deepcopy(tokenizers[base])
    if isinstance(request.source, ModelRef):
        found = copy.deepcopy(tokenizers.get(request.source) or load_tokenizer(tokenizer_folder(request.source), trust))
    elif request.source == "union":
        for tokenizer in tokenizers.values():
            _add_tokens(found, tokenizer)
    known = found.get_vocab()
    for token in request.tokens:
        if token not in known:
            found.add_tokens(token)
    return found


def _add_tokens(target: PreTrainedTokenizerBase, source: PreTrainedTokenizerBase) -> None:
    known, added = target.get_vocab(), {str(token): token for token in source.added_tokens_decoder.values()}
    plain = [token for token, _ in sorted(source.get_vocab().items(), key=lambda item: item[1]) if token not in added]
    for token in plain:
        if token not in known:
            target.add_tokens(token)
    marked = {str(token) for token in target.added_tokens_decoder.values()}
    for content, added_token in added.items():
        if content not in marked:
            target.add_tokens(added_token)


def _description(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """The contents of tokenizer.json; None for a tokenizer that has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str()) if backend is not None else None


def _difference(
    base: dict[str, Any] | None,
    other: dict[str, Any] | None,
    base_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
) -> str | None:
    if base is None or other is None:
        names = type(tokenizer).__name__, type(base_tokenizer).__name__
        return None if names[0] == names[1] else f"its class is {names[0]}, the base's {names[1]}"
    models = base["model"], other["model"]
    if models[0]["type"] != models[1]["type"]:
        return f"its kind is {models[1]['type']}, the base's {models[0]['type']}"
    for part in ("normalizer", "pre_tokenizer"):
        if base[part] != other[part]:
            return f"its {part} is {_short(other[part])}, the base's {_short(base[part])}"
    if models[0]["type"] == "BPE":
        return _other_merges(models[0]["merges"], models[1]["merges"])
    return _other_scores(models[0]["vocab"], models[1]["vocab"]) if models[0]["type"] == "Unigram" else None


def _other_merges(base: list[Any], other: list[Any]) -> str | None:
    """The first merge of either that the other does not have; the order of equal merges does not matter."""
    sides = [[" ".join(merge) if isinstance(merge, list) else merge for merge in merges] for merges in (base, other)]
    known = [set(side) for side in sides]
    if extra := next((merge for merge in sides[1] if merge not in known[0]), None):
        return f"it merges {extra!r}, the base does not"
    lost = next((merge for merge in sides[0] if merge not in known[1]), None)
    return f"the base merges {lost!r}, it does not" if lost else None


def _other_scores(base: list[Any], other: list[Any]) -> str | None:
    """The first piece of a unigram model with another score."""
    scores = {piece: score for piece, score in base}
    different = ((piece, score) for piece, score in other if piece in scores and scores[piece] != score)
    found = next(different, None)
    return f"the piece {found[0]!r} has the score {found[1]}, in the base {scores[found[0]]}" if found else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
