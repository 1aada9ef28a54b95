"""What of the base's files stands in a merged folder beside the merged tensors themselves."""

import logging
from collections.abc import Iterable, Iterator

from torch import Tensor

from evomerge.models import Expert, Family, FullExpert, equal_tensors, layer_of, summary_line

log = logging.getLogger(__name__)


def under_every_name(tensors: Iterable[tuple[str, Tensor]], family: Family) -> Iterator[tuple[str, Tensor]]:
    """The tensors, and those of tied parameters under every name that the base's files give them."""
    for name, tensor in tensors:
        yield name, tensor
        for other in family.base.copies.get(name, ()):
            yield other, tensor.clone()


def carried_over(family: Family, stacked: bool) -> Iterator[tuple[str, Tensor]]:
    """What a merge leaves alone: other towers, buffers, tensors that the architecture does not read.

    Of a model with other layers than the base only what is outside its stacks. A line says what experts have changed.
    """
    lost: list[str] = []
    for name in family.base.unmerged:
        place = layer_of(name)
        if stacked and place and place[0] in family.layout.stacks:
            continue
        tensor = family.base.checkpoint.tensor(name)
        if any(_differs(expert, name, tensor) for expert in family.experts.values()):
            lost.append(name)
        yield name, tensor
    if lost:
        log.warning(
            "%s: outside the language model these stay the base's, whatever experts made of them", summary_line(lost)
        )


def _differs(expert: Expert, name: str, tensor: Tensor) -> bool:
    if not isinstance(expert, FullExpert) or name not in expert.checkpoint:
        return False
    return not equal_tensors(tensor, expert.checkpoint.tensor(name))
