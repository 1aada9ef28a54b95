"""Parses the keys of a recipe about the tokenizer of the merged model, which are mergekit's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import ConfigError
from evomerge.recipes.recipe import ModelRef
from evomerge.recipes.settings import mapping, model_ref

TOKENIZER_KEYS = ("tokenizer_source", "tokenizer", "chat_template")
TOKENIZER_BLOCK_KEYS = ("source", "tokens", "pad_to_multiple_of")
AUTO_TEMPLATE = "auto"
MIN_TEMPLATE_LENGTH = 20  # characters, as in mergekit


@dataclass(frozen=True)
class TokenizerRequest:
    """The requested tokenizer: `source` is `base`, `union` or a model; `key` is the document's key, if it has one."""

    key: str | None = None
    source: str | ModelRef = "base"
    tokens: tuple[str, ...] = ()
    pad_to: int = 1
    template: str | None = None  # the text of a chat template, or AUTO_TEMPLATE for that of most models


def parse_tokenizer_request(entries: Mapping[str, Any]) -> TokenizerRequest:
    """The request in a document's tokenizer keys; ConfigError if it is not supported."""
    if len(entries.keys() & {"tokenizer_source", "tokenizer"}) == 2:
        raise ConfigError("give either tokenizer_source or tokenizer")
    template = _template(entries.get("chat_template"))
    if "tokenizer_source" in entries:
        return TokenizerRequest("tokenizer_source", _source(entries["tokenizer_source"]), template=template)
    if "tokenizer" not in entries:
        return TokenizerRequest(template=template)
    block = mapping(entries["tokenizer"], "tokenizer")
    source = _source(block.get("source", "union"))  # mergekit's default
    return TokenizerRequest("tokenizer", source, _tokens(block), _pad_to(block), template)


def _source(value: Any) -> str | ModelRef:
    return value if value in ("base", "union") else model_ref(value)


def _tokens(block: Mapping[str, Any]) -> tuple[str, ...]:
    """The tokens that would get an embedding in models that lack them."""
    tokens = mapping(block.get("tokens"), "tokenizer: tokens")
    for token, entry in tokens.items():
        if mapping(entry, f"tokenizer: tokens: {token}").get("force"):
            raise ConfigError(f"tokenizer: tokens: {token}: force is not supported; set its row in every model first")
    return tuple(tokens)


def _pad_to(block: Mapping[str, Any]) -> int:
    value = block.get("pad_to_multiple_of") or 1
    if type(value) is not int or value < 1:
        raise ConfigError(f"tokenizer: pad_to_multiple_of: {value!r} is not a whole number above 0")
    return value


def _template(value: Any) -> str | None:
    """The text of a chat template, or AUTO_TEMPLATE; the names of mergekit's built-in templates are not supported."""
    if not value or value == AUTO_TEMPLATE:
        return value or None
    if not isinstance(value, str) or len(value) < MIN_TEMPLATE_LENGTH or "{" not in value:
        raise ConfigError(
            f"chat_template: {value!r} is no template; give its text, or auto; mergekit's own templates are unknown"
        )
    return value
