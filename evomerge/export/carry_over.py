"""The tensors of a merged folder that are copied: further names of tied tensors, and the base's unmerged tensors."""

import logging
from collections.abc import Iterable, Iterator

from torch import Tensor

from evomerge.models import Expert, Family, FullExpert, equal_tensors, layer_of, summary_line

log = logging.getLogger(__name__)


def with_tied_copies(tensors: Iterable[tuple[str, Tensor]], family: Family) -> Iterator[tuple[str, Tensor]]:
    """The tensors, with copies of tied parameters under every name that they have in the base's files."""
    for name, tensor in tensors:
        yield name, tensor
        for other in family.base.copies.get(name, ()):
            yield other, tensor.clone()


def unmerged_tensors(family: Family, stacked: bool) -> Iterator[tuple[str, Tensor]]:
    """The base's tensors that a merge does not change: other modalities, buffers, tensors without a use.

    For a recipe with stacked layers, tensors inside the layer stacks are left out. Logs a warning with the names of the
    tensors that experts changed.
    """
    changed: list[str] = []
    for name in family.base.unmerged:
        place = layer_of(name)
        if stacked and place and place[0] in family.layout.stacks:
            continue
        tensor = family.base.checkpoint.tensor(name)
        if any(_differs(expert, name, tensor) for expert in family.experts.values()):
            changed.append(name)
        yield name, tensor
    if changed:
        log.warning(
            "%s: outside the language model these stay the base's, although experts changed them", summary_line(changed)
        )


def _differs(expert: Expert, name: str, tensor: Tensor) -> bool:
    if not isinstance(expert, FullExpert) or name not in expert.checkpoint:
        return False
    return not equal_tensors(tensor, expert.checkpoint.tensor(name))
