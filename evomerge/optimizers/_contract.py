"""What an optimizer sees and says: vectors of the unit cube, and their losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.schema import Range

Vector = NDArray[np.float64]
LARGEST = 10_000  # candidates of one generation
Population = Annotated[int, Range(1, LARGEST)]


@dataclass(frozen=True)
class Coordinate:
    """One axis of the cube: its name, and how many values it has, each a cell of equal width; 0 is a continuum.

    Values without an order are categories: a neighbouring cell is no nearer than any other.
    """

    name: str
    levels: int = 0
    ordered: bool = True


class Optimizer(Protocol):
    """What `create` in each file of this folder returns."""

    def ask(self) -> list[Vector]:
        """One generation of points of the unit cube; an empty list when there is nothing left to try."""

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """The losses of a whole generation, in the order asked; a failed candidate's is +inf.

        A loss is a float; of several objectives, for a module that says SEVERAL_OBJECTIVES, a tuple of them.
        """

    def centre(self) -> Vector | None:
        """Where the optimizer believes the optimum to be, which noise moves less than its best point; None if nowhere.

        A point of the unit cube.
        """
