"""The interface of optimizers: they propose vectors of the unit cube and get the losses of these vectors."""

from collections.abc import Generator, Sequence
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


@dataclass(frozen=True, eq=False)
class SlopeRequest:
    """Items whose losses are wanted at a point, with their slope or not, by their places among those with a loss."""

    vector: Vector
    items: tuple[int, ...]
    derivative: bool = True


@dataclass(frozen=True, eq=False)
class SlopeReply:
    """The loss of each item of a request, and the slope of their weighted mean in each coordinate."""

    losses: Vector
    slope: Vector | None = None


@dataclass(frozen=True)
class Terms:
    """What a descent may use: the task and the weight of every item that has a loss, and what it may spend.

    `allowance` and `price` are in forward passes of one item: what all requests together may cost, and the cost of one
    item with its slope. Weights have the mean 1; the weighted mean of the losses is what a descent lowers.
    """

    tasks: tuple[str, ...]
    weights: tuple[float, ...]
    allowance: float
    price: float


Descent = Generator[SlopeRequest, SlopeReply, None]


class SlopeOptimizer(Protocol):
    """An optimizer that also uses slopes; a module whose `create` may return one defines `uses_slopes(settings)`."""

    def descent(self, terms: Terms) -> Descent:
        """A generator that runs before the first `ask`: it yields requests and is sent the reply to each.

        It is closed early where the budget ends sooner than the terms said.
        """


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


class AsynchronousOptimizer(Protocol):
    """An optimizer that proposes points while results are outstanding; a module with one sets ASYNCHRONOUS.

    Its points are numbered from 1 in the order proposed. It is a function of the order of the calls of both methods, so
    a search that repeats these calls with the same losses reaches the same state. A search uses either these two
    methods, or `ask` and `tell`.
    """

    @property
    def population(self) -> int:
        """How many results form one update, or one line of progress."""

    def propose(self, surrogate: "Surrogate | None" = None) -> Vector | None:
        """The next point, or None if there is none before further results, or ever where none is outstanding."""

    def learn(self, number: int, loss: Any) -> None:
        """Update with the loss of the point with this number; results may come in any order."""

    def centre(self) -> Vector | None:
        """See `Optimizer.centre`."""
