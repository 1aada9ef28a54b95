"""What a method says about one tensor: a few numbers for one of the passes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A coefficient of its own for each row, the first axis of the tensor."""

    values: tuple[float, ...]


Weight = float | Rows


@dataclass(frozen=True)
class LinComb:
    """out = base·x₀ + Σ experts[i]·xᵢ + Σ directions[j]·dⱼ, over weights (not task vectors).

    dⱼ is the tensor that the method prepared as `direction.j`, of the base's shape.
    """

    base: Weight
    experts: tuple[Weight, ...]
    directions: tuple[float, ...] = ()


class Block(NamedTuple):
    """What an elementwise rule sees: the same elements of every tensor, flat; fp32 where not said otherwise."""

    base: Tensor
    deltas: tuple[Tensor, ...]  # task vectors, one per expert
    bank: tuple[Tensor, ...]  # prepared tensors, in their stored dtype
    numbers: Tensor  # [k]
    words: Tensor  # int32 [m]
    start: Tensor  # int32 scalar: low word of the first element's index in the tensor
    high: Tensor  # int32 scalar: its high word


Rule = Callable[[Block], Tensor]


@dataclass(frozen=True)
class Consensus:
    """out = base + rule(elements): any rule that looks at one element of every task vector at a time.

    A rule is a function of a module, or a frozen dataclass with `__call__`: it is hashed and compiled once, so whatever
    changes between candidates travels in `numbers` and `words` (32-bit), and `bank` names prepared tensors.
    """

    rule: Rule
    numbers: tuple[float, ...] = ()
    words: tuple[int, ...] = ()
    bank: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LowRank:
    """out = base + U·core·V, with U [rows, p] and V [q, columns] prepared as `up` and `down`; core [p, q]."""

    core: NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LowRank) and np.array_equal(self.core, other.core)


Coefficients = LinComb | Consensus | LowRank
