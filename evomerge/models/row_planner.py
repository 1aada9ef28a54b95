"""Makes the row plan of a requested vocabulary from the tokens of each model.

The rule for a token that a model lacks is mergekit's: the row of the only model that has the token; of several, the
base's row, or their mean if the base lacks it; zeros if no model has it. The document may give another rule for each
token, and `missing: pieces` one for all.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from evomerge.errors import ConfigError
from evomerge.models.merged_tokenizer import Tokens
from evomerge.models.row_plan import NONE, RowPlan
from evomerge.recipes import ModelRef, TokenizerRequest, TokenRule

SHOWN = 4  # names in a list


class RowPlanner:
    """Makes the rows of the merged vocabulary from the tokens of each model."""

    def __init__(
        self,
        request: TokenizerRequest,
        models: Sequence[ModelRef],
        rows: Mapping[ModelRef, int],
        tokens: Mapping[ModelRef, Tokens],
        splitters: Mapping[ModelRef, PreTrainedTokenizerBase],
    ) -> None:
        self._request, self._models, self._rows = request, models, rows
        self._tokens, self._splitters = tokens, splitters
        self._shared: dict[int, tuple[tuple[ModelRef, int], ...]] = {}
        self._pieces: dict[ModelRef, dict[int, tuple[int, ...]]] = {}

    def plan(self, merged: Tokens) -> RowPlan:
        """The rows for these tokens, with rows of padding after them."""
        size = max(len(merged), max(merged.values(), default=-1) + 1)
        size = -(-size // self._request.pad_to) * self._request.pad_to
        own = {ref: torch.full((size,), NONE, dtype=torch.long) for ref in self._tokens}
        forced = {token for token, rule in self._request.tokens.items() if rule.force}
        for ref, known in self._tokens.items():
            pairs = [(row, known[t]) for t, row in merged.items() if t in known and t not in forced]
            if pairs:
                places, rows = zip(*pairs, strict=True)
                own[ref][list(places)] = torch.tensor(rows)
        for token, row in merged.items():
            if any(token in forced or token not in known for known in self._tokens.values()):
                self._add_rule(token, row, forced)
        unnamed = sorted(set(range(size)) - set(merged.values()))
        return RowPlan(size, own, self._shared, self._pieces, tuple(unnamed))

    def _add_rule(self, token: str, row: int, forced: set[str]) -> None:
        rule = self._request.tokens.get(token, TokenRule())
        if rule.kind == "pieces" or (rule.kind == "default" and self._request.missing == "pieces"):
            for ref, known in self._tokens.items():
                if token in forced or token not in known:
                    self._pieces.setdefault(ref, {})[row] = self._split(ref, token)
        else:
            self._shared[row] = self._sources(token, rule)

    def _sources(self, token: str, rule: TokenRule) -> tuple[tuple[ModelRef, int], ...]:
        """The (model, row) pairs whose mean models without the token get."""
        if rule.kind == "zero":
            return ()
        if rule.kind == "model":
            return (self._row_of(token, rule),)
        have = [(ref, self._tokens[ref][token]) for ref in self._models if token in self._tokens[ref]]
        if not have and token in self._request.tokens:
            raise ConfigError(f"tokenizer: tokens: {token}: no model has this token; give it a source")
        if len(have) > 1 and self._request.has_base and have[0][0] == self._models[0]:
            return (have[0],)
        return tuple(have)

    def _row_of(self, token: str, rule: TokenRule) -> tuple[ModelRef, int]:
        where, ref = f"tokenizer: tokens: {token}", rule.model
        if ref is None or ref not in self._tokens:
            raise ConfigError(f"{where}: {ref} is no model of the recipe; choose one of {listed(self._tokens)}")
        wanted, known = token if rule.token is None else rule.token, self._tokens[ref]
        if isinstance(wanted, int):
            if not 0 <= wanted < self._rows[ref]:
                raise ConfigError(f"{where}: token_id {wanted}: the rows of {ref} are 0 to {self._rows[ref] - 1}")
            return ref, wanted
        if wanted not in known:
            raise ConfigError(f"{where}: {ref} has no token {wanted!r}; give one that it has")
        return ref, known[wanted]

    def _split(self, ref: ModelRef, token: str) -> tuple[int, ...]:
        """The rows of a token's pieces, as the model's tokenizer splits it where it is text."""
        itself, ids = self._tokens[ref].get(token), self._splitters[ref](token, add_special_tokens=False).input_ids
        rows = tuple(row for row in ids if row < self._rows[ref] and row != itself)
        if not rows:
            raise ConfigError(f"tokenizer: tokens: {token}: {ref} does not split it into other tokens; give a source")
        return rows


def listed(values: Iterable[object]) -> str:
    """The first few values, and the number of further ones."""
    shown = [str(value) for value in values]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
