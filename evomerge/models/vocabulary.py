"""The merged vocabulary of a family: its tokens, and the rows of embedding and head that each model has for them.

A request makes it from the models' tokenizers. Without a request the base's rows are kept, and an expert with more or
fewer rows at the end of its tables is read as far as the base's rows go.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evomerge.errors import ConfigError, ExpertError
from evomerge.models.adapter_expert import AdapterExpert
from evomerge.models.checkpoint import read_json
from evomerge.models.experts import Base, FullExpert
from evomerge.models.live_model import full_config
from evomerge.models.merged_tokenizer import (
    Tokens,
    merged_tokenizer,
    read_tokenizers,
    refuse_other_splits,
    tokenizer_folder,
)
from evomerge.models.row_plan import NONE, RowPlan, Table
from evomerge.models.row_planner import RowPlanner, listed
from evomerge.models.vocabulary_tensors import ROWS_KEY, vocabulary_axes
from evomerge.recipes import ModelRef, TokenizerRequest

ID_SUFFIX = "_token_id"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
Experts = Mapping[ModelRef, FullExpert | AdapterExpert]


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


def find_vocabulary(ref: ModelRef, base: Base, experts: Experts, request: TokenizerRequest | None) -> Vocabulary | None:
    """The vocabulary that is requested, or that experts with other numbers of rows need; None if no row changes."""
    is_requested = request is not None and request.key is not None
    full = {other: found for other, expert in experts.items() if (found := _checkpoint(expert))}
    if not is_requested and not any(_has_other_rows(expert, base) for expert in full.values()):
        return None
    axes = vocabulary_axes(base.folder, base.trust_remote_code)
    rows = {ref: next(base.shape(name)[axes[path]] for name, path in base.parameter.items() if path in axes)}
    rows |= {other: _rows(other, full[other], base, axes) if other in full else rows[ref] for other in experts}
    if request is not None and is_requested:
        return requested_vocabulary(request, ref, rows, axes, base.trust_remote_code)
    return padded_vocabulary(ref, rows, axes, base.trust_remote_code) if len(set(rows.values())) > 1 else None


def _checkpoint(expert: FullExpert | AdapterExpert) -> FullExpert | None:
    return expert.origin if isinstance(expert, AdapterExpert) else expert


def _has_other_rows(expert: FullExpert, base: Base) -> bool:
    """Whether a tensor differs from the base's in the length of one axis alone, which is the number of tokens there."""
    tokens = base.checkpoint.config.get(ROWS_KEY) or full_config(base.folder, base.trust_remote_code).get(ROWS_KEY)
    pairs = ((base.shape(name), expert.shape(place)) for name, place in base.destination.items())
    different = (
        [one for one, other in zip(shape, own, strict=True) if one != other]
        for shape, own in pairs
        if own is not None and len(own) == len(shape)
    )
    return any(lengths == [tokens] for lengths in different)


def _rows(ref: ModelRef, expert: FullExpert, base: Base, axes: Mapping[str, int]) -> int:
    """The number of rows of an expert's tables; ExpertError if they differ."""
    places = {name: place for name, place in base.destination.items() if place.path in axes}
    if split := next((name for name, place in places.items() if not place.whole), None):
        raise ExpertError(f"{ref}: {split} is stored in several parts, so its rows cannot be moved")
    shapes = {name: shape for name, place in places.items() if (shape := expert.shape(place)) is not None}
    counts = {name: shape[axes[places[name].path]] for name, shape in shapes.items()}
    if len(set(counts.values())) > 1:
        (one, first), (other, second) = min(counts.items(), key=_count), max(counts.items(), key=_count)
        raise ExpertError(f"{ref}: {one} has {first} rows and {other} {second}; resize both to one vocabulary")
    return next(iter(counts.values()))


def _count(item: tuple[str, int]) -> int:
    return item[1]


def requested_vocabulary(
    request: TokenizerRequest, base: ModelRef, rows: Mapping[ModelRef, int], axes: Mapping[str, int], trust: bool
) -> Vocabulary | None:
    """The vocabulary of a request for models with so many rows, the base first; None if every row stays where it is.

    ConfigError or ExpertError for tokenizers that cannot be merged, and for a rule that cannot be followed.
    """
    models = tuple(dict.fromkeys([base, *(request.models or rows)]))
    if foreign := next((ref for ref in models if ref not in rows), None):
        raise ConfigError(f"evomerge.vocabulary: {foreign} is no model of the recipe; leave it out")
    tokenizers = read_tokenizers(rows, trust)
    if base not in tokenizers:
        raise ExpertError(f"{base}: no tokenizer, so no vocabulary to merge into; add its tokenizer files")
    key = request.key or "tokenizer"
    refuse_other_splits(base, tokenizers, key)
    known = {ref: tokenizers[ref].get_vocab() if ref in tokenizers else None for ref in rows}
    for ref in rows:
        if known[ref] is None and rows[ref] != rows[base]:
            raise ExpertError(
                f"{ref}: no tokenizer, and {rows[ref]} rows (the base has {rows[base]}); add its tokenizer files"
            )
    vocabularies = {ref: found or known[base] or {} for ref, found in known.items()}
    inside = {ref: {t: row for t, row in found.items() if row < rows[ref]} for ref, found in vocabularies.items()}
    # Models without a tokenizer of their own have the base's (as in mergekit).
    of_models = {ref: tokenizers.get(ref, tokenizers[base]) for ref in models}
    tokenizer = merged_tokenizer(request, base, of_models, trust)
    beyond = {ref: min(found.keys() - inside[ref].keys(), default=None) for ref, found in vocabularies.items()}
    tokens = tokenizer.get_vocab()
    if request.source in ("base", "union"):
        lost = vocabularies[base].keys() - inside[base].keys()
        tokens = {token: row for token, row in tokens.items() if token not in lost}
    splitters = {ref: tokenizers.get(ref, tokenizers[base]) for ref in rows}
    plan = RowPlanner(request, models, rows, inside, splitters).plan(tokens)
    if all(plan.keeps(ref, count) for ref, count in rows.items()):
        return None
    for ref, token in beyond.items():
        if token is not None:
            raise ExpertError(
                f"{ref}: its tokenizer has {token!r} as row {vocabularies[ref][token]}, its embedding has "
                f"{rows[ref]} rows; resize the embedding, or take the token out of the tokenizer"
            )
    return Vocabulary(plan, axes, rows, request, tokenizer, inside[base])


def padded_vocabulary(base: ModelRef, rows: Mapping[ModelRef, int], axes: Mapping[str, int], trust: bool) -> Vocabulary:
    """The base's rows for experts with more or fewer rows: further rows are left out, missing rows are the base's.

    ExpertError if a common row is another token than in the base.
    """
    size = rows[base]
    own = {ref: torch.arange(size).where(torch.arange(size) < count, NONE) for ref, count in rows.items()}
    fewest = min(rows.values())
    shared = {row: ((base, row),) for row in range(fewest, size)}
    other = [ref for ref, count in rows.items() if count != size]
    tokenizers = read_tokenizers([base, *other], trust)
    names = {ref: {row: token for token, row in found.get_vocab().items()} for ref, found in tokenizers.items()}
    notes = tuple(_padding_notes(base, {ref: rows[ref] for ref in other}, size, names))
    return Vocabulary(RowPlan(size, own, shared), axes, rows, notes=notes)


def _padding_notes(
    base: ModelRef, rows: Mapping[ModelRef, int], size: int, names: Mapping[ModelRef, Mapping[int, str]]
) -> Iterator[str]:
    for ref, count in rows.items():
        both = names.get(ref, {}), names.get(base, {})
        different = (row for row in sorted(both[0].keys() & both[1].keys()) if both[0][row] != both[1][row])
        if both[0] and (row := next(different, None)) is not None and row < min(count, size):
            raise ExpertError(
                f"{ref} does not fit the base {base}: {count} rows (base {size}), and row {row} is "
                f"{both[0][row]!r} (base {both[1][row]!r}); align them by the key tokenizer: {{source: base}}"
            )
        if count < size and not both[0] and (not both[1] or max(both[1]) >= count):
            raise ExpertError(
                f"{ref} does not fit the base {base}: {count} rows (base {size}), and no tokenizer that names its "
                "tokens; add its tokenizer files"
            )
        if count < size:
            yield f"{ref}: {count} rows of its vocabulary, the base has {size}: the last {size - count} are the base's"
            continue
        lost = [token for row, token in sorted(both[0].items()) if size <= row < count]
        which = f", among them {listed(map(repr, lost))} (tokenizer: {{source: union}} keeps them)" if lost else ""
        yield f"{ref}: {count} rows of its vocabulary, the base has {size}: the others are left out{which}"


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
