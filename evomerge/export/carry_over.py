"""The tensors of a merged folder that are copied: further names of tied tensors, and the base's unmerged tensors."""

import logging
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from evomerge.models import Expert, Family, FullExpert, equal_tensors, layer_of, shift_layer, summary_line

log = logging.getLogger(__name__)


def with_tied_copies(tensors: Iterable[tuple[str, Tensor]], family: Family) -> Iterator[tuple[str, Tensor]]:
    """The tensors, with copies of tied parameters under every name that they have in the base's files."""
    for name, tensor in tensors:
        yield name, tensor
        for other in family.base.copies.get(name, ()):
            yield other, tensor.clone()


def unmerged_tensors(family: Family, order: Sequence[int] | None) -> Iterator[tuple[str, Tensor]]:
    """The base's tensors that a merge does not change: other modalities, buffers, tensors without a use.

    In a recipe with slices, output layer i gets those of the base's layer `order[i]`. Logs a warning with the names of
    the tensors that experts changed.
    """
    changed: list[str] = []
    for name in family.base.unmerged:
        tensor = family.base.checkpoint.tensor(name)
        if any(_differs(expert, name, tensor) for expert in family.experts.values()):
            changed.append(name)
        place = layer_of(name)
        if order is None or not place or place[0] not in family.layout.stacks:
            yield name, tensor
            continue
        for new in (new for new, old in enumerate(order) if old == place[1]):
            yield shift_layer(name, place[0], new - place[1]), tensor.clone()
    if changed:
        log.warning(
            "%s: outside the language model these stay the base's, although experts changed them", summary_line(changed)
        )


def _differs(expert: Expert, name: str, tensor: Tensor) -> bool:
    if not isinstance(expert, FullExpert) or name not in expert.checkpoint:
        return False
    return not equal_tensors(tensor, expert.checkpoint.tensor(name))
