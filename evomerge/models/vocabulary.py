"""The merged vocabulary of a family: its tokens, and the rows of embedding and head that each model has for them.

A request makes it from the models' tokenizers.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evomerge.errors import ConfigError, ExpertError
from evomerge.models.checkpoint import read_json
from evomerge.models.merged_tokenizer import (
    Tokens,
    merged_tokenizer,
    read_tokenizers,
    refuse_other_splits,
    tokenizer_folder,
)
from evomerge.models.row_plan import RowPlan, Table
from evomerge.models.row_planner import RowPlanner, listed
from evomerge.recipes import ModelRef, TokenizerRequest

ID_SUFFIX = "_token_id"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass
class Vocabulary:
    """The rows of a family's merged vocabulary; `axes` maps each parameter with a row per token to the axis of tokens.

    `tokenizer` is the merged one; None where only rows at the end of an expert's tables differ from the base's.
    """

    plan: RowPlan
    axes: Mapping[str, int]
    rows: Mapping[ModelRef, int]  # in each model's own files, the base first
    request: TokenizerRequest | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    base_tokens: Tokens = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    _shared: dict[str, Tensor] = field(default_factory=dict)

    def table(self, ref: ModelRef, path: str, raw: Table) -> Tensor:
        """A model's tensor at this path in the merged order; `raw` returns any model's tensor as it is stored."""
        axis = self.axes[path]

        def first(other: ModelRef) -> Tensor:
            return raw(other).movedim(axis, 0)

        if path not in self._shared:
            self._shared[path] = self.plan.shared_rows(first)
        found = self.plan.merged_order(ref, first(ref), self._shared[path])
        return found.movedim(0, axis)

    def keeps(self, ref: ModelRef) -> bool:
        """Whether the model's tensors stay as they are in its files."""
        return self.plan.keeps(ref, self.rows[ref])

    def shape(self, path: str, shape: Sequence[int]) -> tuple[int, ...]:
        """The merged shape of a parameter."""
        return tuple(self.plan.size if i == self.axes[path] else length for i, length in enumerate(shape))

    def token_ids(self, values: Mapping[str, Any], file: str) -> dict[str, Any]:
        """The ids of special tokens among the values of a configuration that are others in the merged vocabulary.

        Where the tokenizer is that of a model, BOS, EOS and padding are those of the model's own `file`.
        """
        if self.tokenizer is None:
            return {}
        tokens = self.tokenizer.get_vocab()
        names = {row: token for token, row in self.base_tokens.items()}
        given = self._ids_of_source(file)

        def moved(row: Any) -> Any:
            if isinstance(row, list):
                return [new for old in row if (new := moved(old)) is not None]
            if type(row) is not int or row < 0:
                return row
            return tokens.get(names[row]) if row in names else row if row < self.plan.size else None

        found = {key: given.get(key, moved(value)) for key, value in values.items() if key.endswith(ID_SUFFIX)}
        return {key: value for key, value in {**given, **found}.items() if value != values.get(key)}

    def _ids_of_source(self, file: str) -> dict[str, Any]:
        if self.request is None or not isinstance(self.request.source, ModelRef):
            return {}
        path = tokenizer_folder(self.request.source) / file
        values = read_json(path) if path.is_file() else {}
        return {key: values[key] for key in SPECIAL_IDS if values.get(key) is not None}


def requested_vocabulary(
    request: TokenizerRequest, base: ModelRef, rows: Mapping[ModelRef, int], axes: Mapping[str, int], trust: bool
) -> Vocabulary | None:
    """The vocabulary of a request for models with so many rows, the base first; None if every row stays where it is.

    ConfigError or ExpertError for tokenizers that cannot be merged, and for a rule that cannot be followed.
    """
    models = tuple(dict.fromkeys([base, *(request.models or rows)]))
    if foreign := next((ref for ref in models if ref not in rows), None):
        raise ConfigError(f"evomerge.vocabulary: {foreign} is no model of the recipe; leave it out")
    tokenizers = _tokenizers(base, rows, trust)
    refuse_other_splits(base, tokenizers, request.key or "tokenizer")
    known = {ref: tokenizer.get_vocab() for ref, tokenizer in tokenizers.items()}
    inside = {ref: {token: row for token, row in known[ref].items() if row < rows[ref]} for ref in rows}
    tokenizer = merged_tokenizer(request, base, {ref: tokenizers[ref] for ref in models}, trust)
    beyond = known[base].keys() - inside[base].keys() if request.source in ("base", "union") else set()
    merged = {token: row for token, row in tokenizer.get_vocab().items() if token not in beyond}
    plan = RowPlanner(request, models, rows, inside, tokenizers).plan(merged)
    if all(plan.keeps(ref, count) for ref, count in rows.items()):
        return None
    for ref, count in rows.items():
        _refuse_beyond(ref, known[ref], count)
    return Vocabulary(plan, axes, rows, request, tokenizer, inside[base])


def _tokenizers(base: ModelRef, rows: Mapping[ModelRef, int], trust: bool) -> dict[ModelRef, PreTrainedTokenizerBase]:
    """The tokenizer of each model; a model without one has the base's (as in mergekit) if it has as many rows."""
    found = read_tokenizers(rows, trust)
    if base not in found:
        raise ExpertError(f"{base}: no tokenizer, so no vocabulary to merge into; add its tokenizer files")
    for ref, count in rows.items():
        if ref not in found and count != rows[base]:
            raise ExpertError(
                f"{ref}: no tokenizer, and {count} rows (the base has {rows[base]}); add its tokenizer files"
            )
    return {ref: found.get(ref, found[base]) for ref in rows}


def _refuse_beyond(ref: ModelRef, tokens: Tokens, rows: int) -> None:
    """ExpertError if a token has a row that the model's embedding does not have."""
    if token := min((token for token, row in tokens.items() if row >= rows), default=None):
        raise ExpertError(
            f"{ref}: its tokenizer has {token!r} as row {tokens[token]}, its embedding has {rows} rows; resize the "
            "embedding, or take the token out of the tokenizer"
        )


def differing_tokens(base: ModelRef, refs: Iterable[ModelRef], trust: bool) -> Iterator[tuple[ModelRef, str]]:
    """Each model whose tokenizer has other tokens than the base's, with what happens to them and the key to set."""
    original = _tokenizer_digest(base)
    different = [ref for ref in refs if (found := _tokenizer_digest(ref)) is not None and found != original]
    tokenizers = read_tokenizers([base, *different], trust) if different else {}
    if base not in tokenizers:
        return
    known = tokenizers[base].get_vocab()
    for ref in different:
        own = tokenizers[ref].get_vocab() if ref in tokenizers else {}
        moved = [token for token, row in own.items() if known.get(token, row) != row]
        if added := sorted(own.keys() - known.keys(), key=own.__getitem__):
            yield (
                ref,
                (
                    f"its tokenizer adds {listed(map(repr, added))}; the base's vocabulary is kept, set "
                    "tokenizer.source=union to keep them"
                ),
            )
        elif moved:
            first = min(moved, key=own.__getitem__)
            yield (
                ref,
                (
                    f"{len(moved)} tokens have other rows than in the base, the first is {first!r}; set "
                    "tokenizer.source=base to match rows by token"
                ),
            )


def _tokenizer_digest(ref: ModelRef) -> str | None:
    """A digest of tokenizer.json; None if the model has none."""
    path = tokenizer_folder(ref) / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
