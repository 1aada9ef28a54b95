"""The interface between a search and its space, whatever choices the space holds."""

from typing import Protocol

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

    def seed_points(self) -> dict[str, Vector]:
        """Label → point of the known merges with which a search begins."""

    def default_points(self) -> dict[str, Vector]:
        """Label → point of the textbook default of each method, which are baselines."""

    def example_points(self) -> list[Vector]:
        """One point of every method."""
