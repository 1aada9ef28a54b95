"""Parses the keys of a recipe about the tokenizer and the vocabulary of the merged model, which are mergekit's.

The block `evomerge: {vocabulary: {models, missing}}` adds two keys: the models whose tokenizers make the vocabulary,
where these are more than the recipe merges, and the rule for tokens that a model does not have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from evomerge.errors import ConfigError
from evomerge.recipes.recipe import ModelRef, Recipe
from evomerge.recipes.settings import mapping, model_ref
from evomerge.suggest import did_you_mean

TOKENIZER_KEYS = ("tokenizer_source", "tokenizer", "chat_template")
TOKENIZER_BLOCK_KEYS = ("source", "tokens", "pad_to_multiple_of")
VOCABULARY_KEYS = ("models", "missing", "has_base")
RULES = ("default", "pieces")  # for the row of a token in a model that does not have it
AUTO_TEMPLATE = "auto"
MIN_TEMPLATE_LENGTH = 20  # characters, as in mergekit
TEMPLATES = {
    "chatml": "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
}


@dataclass(frozen=True)
class TokenRule:
    """Where a token's row comes from in models without the token, and with `force` in all models.

    `model` is the row of `token` (a token or a row number; None for the same token) in one model, `pieces` the mean of
    the rows of the pieces into which a model's own tokenizer splits the token.
    """

    kind: Literal["default", "model", "zero", "pieces"] = "default"
    model: ModelRef | None = None
    token: str | int | None = None
    force: bool = False

    def plain(self) -> dict[str, Any]:
        """The rule as mergekit writes it."""
        source: Any = {"kind": self.kind} if self.kind in ("zero", "pieces") else None
        if self.kind == "model":
            other = {"kind": "model_token", "model": str(self.model)}
            key = "token_id" if isinstance(self.token, int) else "token"
            source = str(self.model) if self.token is None else {**other, key: self.token}
        return ({"source": source} if source else {}) | ({"force": True} if self.force else {})


@dataclass(frozen=True)
class TokenizerRequest:
    """The requested tokenizer: `source` is `base`, `union` or a model; `key` is the document's key, if it has one.

    `models` are those whose tokenizers make the vocabulary, the base first; empty for the models of the recipe.
    """

    key: str | None = None
    source: str | ModelRef = "base"
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    pad_to: int = 1
    template: str | None = None  # the text of a chat template, or AUTO_TEMPLATE for that of most models
    missing: str = "default"
    models: tuple[ModelRef, ...] = ()
    has_base: bool | None = None  # whether a base's rows fill those that other models lack; None: if the recipe has one

    def plain(self) -> dict[str, Any]:
        """What decides the rows, as plain values: the field `vocabulary` of a recipe."""
        block: dict[str, Any] = {"source": str(self.source)}
        if self.tokens:
            block["tokens"] = {token: rule.plain() for token, rule in self.tokens.items()}
        if self.pad_to > 1:
            block["pad_to_multiple_of"] = self.pad_to
        return {
            "tokenizer": block,
            **({"models": [str(ref) for ref in self.models]} if self.models else {}),
            **({"missing": self.missing} if self.missing != "default" else {}),
            **({"has_base": self.has_base} if self.has_base is not None else {}),
        }


def parse_tokenizer_request(
    entries: Mapping[str, Any], vocabulary: Mapping[str, Any] | None = None
) -> TokenizerRequest:
    """The request in a document's tokenizer keys and in `evomerge.vocabulary`; ConfigError if it is not supported."""
    if len(entries.keys() & {"tokenizer_source", "tokenizer"}) == 2:
        raise ConfigError("give either tokenizer_source or tokenizer")
    request = TokenizerRequest(template=_template(entries.get("chat_template")))
    if "tokenizer_source" in entries:
        request = replace(request, key="tokenizer_source", source=_source(entries["tokenizer_source"]))
    elif "tokenizer" in entries:
        block = mapping(entries["tokenizer"], "tokenizer")
        source = _source(block.get("source", "union"))  # mergekit's default
        request = replace(request, key="tokenizer", source=source, tokens=_tokens(block), pad_to=_pad_to(block))
    if vocabulary is None:
        return request
    if request.key is None:
        raise ConfigError("evomerge.vocabulary: it has no effect without the key tokenizer; add tokenizer: {source: …}")
    missing, models = _missing(vocabulary, "evomerge.vocabulary"), vocabulary.get("models") or []
    if not isinstance(models, list):
        raise ConfigError(f"evomerge.vocabulary: models: {models!r} is not a list")
    has_base = vocabulary.get("has_base")
    if has_base not in (None, True, False):
        raise ConfigError(f"evomerge.vocabulary: has_base: {has_base!r} is neither true nor false")
    return replace(request, missing=missing, models=tuple(map(model_ref, models)), has_base=has_base)


def parse_tokenizer_section(section: Mapping[str, Any]) -> TokenizerRequest | None:
    """The request of the section `tokenizer` of a search, None if it asks for nothing; ConfigError names the key."""
    known = (*TOKENIZER_BLOCK_KEYS, "missing")
    if unknown := next((key for key in section if key not in known), None):
        raise ConfigError(f"tokenizer: no key {unknown}{did_you_mean(str(unknown), known)}")
    missing = _missing(section, "tokenizer")
    block = {key: section[key] for key in TOKENIZER_BLOCK_KEYS if section.get(key)}
    if not block:
        if missing != "default":
            raise ConfigError(
                "tokenizer.missing: it has no effect without tokenizer.source; give base, union or a model"
            )
        return None
    return replace(parse_tokenizer_request({"tokenizer": {"source": "base", **block}}), missing=missing, has_base=True)


def request_of(recipe: Recipe) -> TokenizerRequest:
    """The request of a recipe, with the recipe's models if it names no others."""
    spec = recipe.vocabulary
    block = {key: value for key, value in spec.items() if key in VOCABULARY_KEYS} if spec else None
    entries = {"tokenizer": spec["tokenizer"]} if spec else recipe.tokenizer
    if spec and "chat_template" in recipe.tokenizer:
        entries = {**entries, "chat_template": recipe.tokenizer["chat_template"]}
    request = parse_tokenizer_request(entries, block)
    has_base = recipe.base is not None if request.has_base is None else request.has_base
    return replace(request, models=request.models or recipe.models(), has_base=has_base)


def _source(value: Any) -> str | ModelRef:
    if value in ("base", "union"):
        return str(value)
    model = model_ref(value)
    hint = did_you_mean(value, ("base", "union")) if isinstance(value, str) and not Path(value).exists() else ""
    if hint and "/" not in str(value):
        raise ConfigError(f"tokenizer: source: no model {value}{hint}; give base, union or a model")
    return model


def _tokens(block: Mapping[str, Any]) -> dict[str, TokenRule]:
    """The rules of the tokens that the document lists."""
    rules = {}
    for token, entry in mapping(block.get("tokens"), "tokenizer: tokens").items():
        where = f"tokenizer: tokens: {token}"
        found = mapping(entry, where)
        if unknown := next((key for key in found if key not in ("source", "force")), None):
            raise ConfigError(f"{where}: no key {unknown}{did_you_mean(unknown, ('source', 'force'))}")
        if not isinstance(found.get("force", False), bool):
            raise ConfigError(f"{where}: force: {found['force']!r} is neither true nor false")
        rule = replace(_rule(found.get("source"), where), force=found.get("force", False))
        if rule.force and rule.kind == "default":
            raise ConfigError(f"{where}: force needs a source, whose row every model gets")
        rules[token] = rule
    return rules


def _rule(source: Any, where: str) -> TokenRule:
    if source is None:
        return TokenRule()
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if kind is None:
        return TokenRule("model", model_ref(source))
    if kind in ("zero", "pieces"):
        return TokenRule(kind)
    if kind != "model_token":
        raise ConfigError(f"{where}: kind {kind!r}: give model_token, zero or pieces")
    given = {key: source[key] for key in ("token", "token_id") if source.get(key) is not None}
    if "model" not in source or len(given) != 1:
        raise ConfigError(f"{where}: model_token needs a model and either token or token_id")
    (token,) = given.values()
    if not isinstance(token, int if "token_id" in given else str) or isinstance(token, bool):
        raise ConfigError(f"{where}: {next(iter(given))}: {token!r} is of another type")
    return TokenRule("model", model_ref(source["model"]), token)


def _missing(section: Mapping[str, Any], where: str) -> str:
    value = section.get("missing") or "default"
    if value not in RULES:
        raise ConfigError(f"{where}: missing: {value!r}: choose one of {', '.join(RULES)}")
    return str(value)


def _pad_to(block: Mapping[str, Any]) -> int:
    value = block.get("pad_to_multiple_of") or 1
    if type(value) is not int or value < 1:
        raise ConfigError(f"tokenizer: pad_to_multiple_of: {value!r} is not a whole number above 0")
    return value


def _template(value: Any) -> str | None:
    """The text of a chat template, or AUTO_TEMPLATE; of mergekit's built-in templates only `chatml` is known."""
    if not value or value == AUTO_TEMPLATE:
        return value or None
    if isinstance(value, str) and value in TEMPLATES:
        return TEMPLATES[value]
    if not isinstance(value, str) or len(value) < MIN_TEMPLATE_LENGTH or "{" not in value:
        raise ConfigError(
            f"chat_template: {value!r} is no template; give its text, auto or chatml; mergekit's others are unknown"
        )
    return value
