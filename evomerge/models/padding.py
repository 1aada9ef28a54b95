"""Experts with more or fewer rows than the base, without a requested vocabulary: the base's rows are kept."""

from collections.abc import Iterator, Mapping

import torch

from evomerge.errors import ExpertError
from evomerge.models.merged_tokenizer import read_tokenizers
from evomerge.models.row_plan import NONE, RowPlan
from evomerge.models.row_planner import listed
from evomerge.models.vocabulary import Vocabulary
from evomerge.recipes import ModelRef


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
