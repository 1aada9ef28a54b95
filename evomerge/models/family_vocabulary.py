"""Whether the models of a family need a merged vocabulary, and how many rows each of them has."""

from collections.abc import Mapping

from evomerge.errors import ExpertError
from evomerge.models.adapter_expert import AdapterExpert
from evomerge.models.base import Base
from evomerge.models.full_expert import FullExpert
from evomerge.models.live_model import full_config
from evomerge.models.padding import padded_vocabulary
from evomerge.models.vocabulary import Vocabulary, requested_vocabulary
from evomerge.models.vocabulary_tensors import ROWS_KEY, vocabulary_axes
from evomerge.recipes import ModelRef, TokenizerRequest

Experts = Mapping[ModelRef, FullExpert | AdapterExpert]


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
