"""The coefficients that a method returns for one tensor: a few numbers, and which of the three passes applies them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class PerRow:
    """One coefficient per row of the tensor; rows run along its first axis."""

    values: tuple[float, ...]


Weight = float | PerRow


@dataclass(frozen=True)
class LinComb:
    """out = base·x₀ + Σ experts[i]·xᵢ + Σ directions[j]·dⱼ, where x are weights, not task vectors.

    dⱼ is the tensor that the method prepared as `bank.direction.j`; it has the base's shape.
    """

    base: Weight
    experts: tuple[Weight, ...]
    directions: tuple[float, ...] = ()


class Block(NamedTuple):
    """The input of an elementwise rule: the same elements of every tensor, flattened; fp32 unless stated otherwise."""

    base: Tensor
    deltas: tuple[Tensor, ...]  # one task vector per expert
    bank: tuple[Tensor, ...]  # prepared tensors in their stored dtype
    numbers: Tensor  # [k]
    words: Tensor  # int32 [m]
    index_low: Tensor  # int32 scalar: low 32 bits of the first element's index in the whole tensor
    index_high: Tensor  # int32 scalar: high 32 bits of that index


Rule = Callable[[Block], Tensor]


@dataclass(frozen=True)
class Consensus:
    """out = base + rule(elements), for a rule that computes each element from that element of every task vector.

    A rule is a module-level function or a frozen dataclass with `__call__`, because it is hashed and compiled once.
    Values that differ between candidates are passed in `numbers` (fp32) and `words` (int32); `bank` names the prepared
    tensors that the rule reads.
    """

    rule: Rule
    numbers: tuple[float, ...] = ()
    words: tuple[int, ...] = ()
    bank: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LowRank:
    """out = base + U·core·V, where U [rows, p] and V [q, columns] are prepared as `bank.up` and `bank.down`."""

    core: NDArray[np.float64]  # [p, q]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LowRank) and np.array_equal(self.core, other.core)


Coefficients = LinComb | Consensus | LowRank
