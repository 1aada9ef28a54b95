"""The keys of a recipe about the tokenizer that goes with the merged weights, as in mergekit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import ConfigError
from evomerge.recipes.recipe import ModelRef
from evomerge.recipes.settings import mapping, model_ref

KEYS = ("tokenizer_source", "tokenizer", "chat_template")
INNER_KEYS = ("source", "tokens", "pad_to_multiple_of")
AUTO = "auto"
SHORTEST = 20  # characters of a template, mergekit's own bound


@dataclass(frozen=True)
class TokenizerRequest:
    """`key` says where a vocabulary is asked for, `source` whose: the base's, the union of all, or that of a model."""

    key: str | None = None
    source: str | ModelRef = "base"
    tokens: tuple[str, ...] = ()
    pad_to: int = 1
    template: str | None = None  # its text, or AUTO: the one that most of the models have


def read_request(given: Mapping[str, Any]) -> TokenizerRequest:
    """What these keys ask for; ConfigError where that can be known to be out of reach."""
    if len(given.keys() & {"tokenizer_source", "tokenizer"}) == 2:
        raise ConfigError("give either tokenizer_source or tokenizer")
    template = _template(given.get("chat_template"))
    if "tokenizer_source" in given:
        return TokenizerRequest("tokenizer_source", _source(given["tokenizer_source"]), template=template)
    if "tokenizer" not in given:
        return TokenizerRequest(template=template)
    inner = mapping(given["tokenizer"], "tokenizer")
    source = _source(inner.get("source", "union"))  # mergekit's default
    return TokenizerRequest("tokenizer", source, _tokens(inner), _pad_to(inner), template)


def _source(given: Any) -> str | ModelRef:
    return given if given in ("base", "union") else model_ref(given)


def _tokens(inner: Mapping[str, Any]) -> tuple[str, ...]:
    """The tokens that are given an embedding where a model lacks them."""
    tokens = mapping(inner.get("tokens"), "tokenizer: tokens")
    for token, entry in tokens.items():
        if mapping(entry, f"tokenizer: tokens: {token}").get("force"):
            raise ConfigError(f"tokenizer: tokens: {token}: force is not supported; set its row in every model first")
    return tuple(tokens)


def _pad_to(inner: Mapping[str, Any]) -> int:
    given = inner.get("pad_to_multiple_of") or 1
    if type(given) is not int or given < 1:
        raise ConfigError(f"tokenizer: pad_to_multiple_of: {given!r} is not a whole number above 0")
    return given


def _template(given: Any) -> str | None:
    """A template's text; the names of those that mergekit brings along are nobody else's."""
    if not given or given == AUTO:
        return given or None
    if not isinstance(given, str) or len(given) < SHORTEST or "{" not in given:
        raise ConfigError(
            f"chat_template: {given!r} is no template; give its text, or auto, mergekit's names are its own"
        )
    return given
