"""How the rows of each model's embedding and head become the rows of the merged vocabulary: numbers, no weights.

A row of the merged vocabulary is one of three kinds in a model: the model's own row of the token; a row that all models
without the token share (a row of one model, the mean of rows of several, or zeros); or the mean of the rows of the
pieces into which the model's own tokenizer splits the token. Rows without a token get the mean of the rows with one
(https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from evomerge.recipes import ModelRef

Table = Callable[[ModelRef], Tensor]  # a model's embedding, head or bias, with its rows along the first axis
NONE = -1


@dataclass(frozen=True)
class RowPlan:
    """The rows of every model in the merged order.

    `own` maps a model to its row for each merged row, or NONE. `shared` maps a merged row to (model, row) pairs whose
    mean all models without an own row get; no pair means zeros. `pieces` maps a model and a merged row to rows of that
    model, which come before `shared`. `unnamed` are merged rows without a token.
    """

    size: int
    own: Mapping[ModelRef, Tensor]
    shared: Mapping[int, tuple[tuple[ModelRef, int], ...]] = field(default_factory=dict)
    pieces: Mapping[ModelRef, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)
    unnamed: tuple[int, ...] = ()

    def keeps(self, ref: ModelRef, rows: int) -> bool:
        """Whether the model's tables of so many rows stay as they are."""
        return rows == self.size and not self.unnamed and torch.equal(self.own[ref], torch.arange(rows))

    def is_like(self, ref: ModelRef, other: ModelRef) -> bool:
        """Whether two models with equal tables have equal tables in the merged order."""
        return torch.equal(self.own[ref], self.own[other]) and self.pieces.get(ref, {}) == self.pieces.get(other, {})

    def agrees_with(self, other: "RowPlan") -> bool:
        """Whether the models that the other plan has get the same rows in both."""
        alike = all(ref in self.own and torch.equal(self.own[ref], own) for ref, own in other.own.items())
        pieces = {ref: self.pieces.get(ref, {}) for ref in other.own} == {
            ref: other.pieces.get(ref, {}) for ref in other.own
        }
        return (
            self.size == other.size
            and self.unnamed == other.unnamed
            and alike
            and pieces
            and self.shared == other.shared
        )

    def needs_float32(self, ref: ModelRef) -> bool:
        """Whether some row of the model is a mean, whose rounding to a short type would be a second one."""
        averaged = any(len(pairs) > 1 for row, pairs in self.shared.items() if self.own[ref][row] == NONE)
        return bool(self.unnamed) or averaged or bool(self.pieces.get(ref))

    @cached_property
    def digest(self) -> str:
        """A digest of the plan."""
        parts = [str((self.size, self.unnamed, sorted((row, str(pairs)) for row, pairs in self.shared.items())))]
        parts += [f"{ref} {own.tolist()} {sorted(self.pieces.get(ref, {}).items())}" for ref, own in self.own.items()]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()

    def shared_rows(self, table: Table) -> Tensor:
        """The rows of `shared`, in its order, in fp32; a mean adds the rows in the order of the models."""
        by_model: dict[ModelRef, tuple[list[int], list[int]]] = {}
        for place, pairs in enumerate(self.shared.values()):
            for ref, row in pairs:
                places, rows = by_model.setdefault(ref, ([], []))
                places.append(place)
                rows.append(row)
        width = table(next(iter(self.own))).shape[1:]
        found = torch.zeros(len(self.shared), *width)
        for ref in sorted(by_model, key=list(self.own).index):
            places, rows = by_model[ref]
            found.index_add_(0, torch.tensor(places), table(ref)[rows].float())
        counts = torch.tensor([max(1, len(pairs)) for pairs in self.shared.values()], dtype=torch.float32)
        return found / counts.view(-1, *[1] * len(width))

    def merged_order(self, ref: ModelRef, table: Tensor, shared: Tensor | None) -> Tensor:
        """The model's table in the merged order; `shared` are the `shared_rows`. A view where rows at the end leave."""
        own = self.own[ref]
        if self._is_prefix(ref):
            return table[: self.size]
        dtype = torch.float32 if self.needs_float32(ref) else table.dtype
        found = torch.zeros(self.size, *table.shape[1:], dtype=dtype)
        known = own != NONE
        found[known] = table[own[known]].to(dtype)
        if shared is not None and self.shared:
            rows = torch.tensor(list(self.shared))
            lacking = own[rows] == NONE
            found[rows[lacking]] = shared[lacking].to(dtype)
        for row, parts in self.pieces.get(ref, {}).items():
            found[row] = table[list(parts)].float().mean(dim=0)
        if self.unnamed:
            named = torch.ones(self.size, dtype=torch.bool)
            named[list(self.unnamed)] = False
            found[~named] = found[named].mean(dim=0)
        return found

    def _is_prefix(self, ref: ModelRef) -> bool:
        return not self.unnamed and torch.equal(self.own[ref], torch.arange(self.size))
