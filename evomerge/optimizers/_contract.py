"""The interface of optimizers: they propose vectors of the unit cube and get the losses of these vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from evomerge.schema import Range

if TYPE_CHECKING:
    from evomerge.optimizers._surrogate import Surrogate
from evomerge.optimizers._vector import Vector

MAX_POPULATION = 10_000
Population = Annotated[int, Range(1, MAX_POPULATION)]


@dataclass(frozen=True)
class Coordinate:
    """One axis of the cube.

    An axis with `levels` values is divided into so many cells of equal width; 0 levels is a continuous axis. Values of
    an axis that is not `ordered` are categories: neighbouring cells are not more similar than others.
    """

    name: str
    levels: int = 0
    ordered: bool = True


class Optimizer(Protocol):
    """The type that `create` in each file of this folder returns."""

    def ask(self, surrogate: "Surrogate | None" = None) -> list[Vector]:
        """The next generation, as points of the unit cube; an empty list if there is nothing left to try.

        `surrogate` models all losses of the search so far; an optimizer may use it to choose among more points than it
        returns.
        """

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Update with the losses of a complete generation, in the order of `ask`; a failed candidate has +inf.

        A loss is a float. With several objectives it is a tuple of floats; a module that supports these sets
        SEVERAL_OBJECTIVES.
        """

    def centre(self) -> Vector | None:
        """The optimizer's estimate of the optimum, a point of the unit cube, or None if it has no estimate.

        It varies less with noise in the losses than the best point that was asked.
        """
