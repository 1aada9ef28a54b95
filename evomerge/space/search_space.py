"""The interface between a search and its space, whatever choices the space holds."""

from collections.abc import Mapping
from typing import Protocol

from evomerge.methods import Owner
from evomerge.optimizers import Coordinate, Vector
from evomerge.recipes import Recipe


class SearchSpace(Protocol):
    """The interface of search spaces: they decode points of the unit cube to recipes."""

    method: str
    out_dtype: str | None
    seed: int
    dimensions: int

    def coordinates(self) -> list[Coordinate]:
        """The coordinate of each axis."""

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """The point whose recipe is nearest, and its distance: the root mean square in units of the genes' ranges.

        ConfigError if the recipe merges other models.
        """

    def decode(self, vector: Vector) -> Recipe:
        """The recipe of a point; any point of the cube is a valid recipe."""

    @property
    def slope_genes(self) -> tuple[str, ...]:
        """The searched genes that have a slope."""

    def pull_back(self, vector: Vector, sums: Mapping[Owner, Vector]) -> Vector:
        """The derivatives with respect to the coordinates of a point, from those with respect to its recipe's values.

        Coordinates without a slope have the derivative 0.
        """

    def seed_points(self) -> dict[str, Vector]:
        """Label → point of the known merges with which a search begins."""

    def default_points(self) -> dict[str, Vector]:
        """Label → point of the textbook default of each method, which are baselines."""

    def example_points(self) -> list[Vector]:
        """One point of every method."""
