"""Categorical genes around search spaces: the choice of method, of schedule, and of the experts that take part."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from evomerge.errors import ConfigError
from evomerge.methods import Owner
from evomerge.optimizers import Coordinate, Vector
from evomerge.recipes import Recipe
from evomerge.space.inverse import RecipeGeneValues
from evomerge.space.search_space import SearchSpace
from evomerge.space.space import PRESENT_FROM, Space

# The coordinates of an expert that takes part or does not: in the middle of their half, so small steps do not flip it.
PRESENT = (1.0 + PRESENT_FROM) / 2
ABSENT = 1.0 - PRESENT


class NestableSpace(SearchSpace, Protocol):
    """A space that can be nested in a choice or in a subset of experts."""

    @property
    def optional_experts(self) -> int:
        """The number of experts that may be left out."""

    def decode(self, vector: Vector, participation: Mapping[str, float] | None = None) -> Recipe:
        """The recipe of a point; `participation` maps each expert to a coordinate, from PRESENT_FROM on it takes part.

        None means that all experts take part.
        """

    def pull_back(
        self, vector: Vector, sums: Mapping[Owner, Vector], participation: Mapping[str, float] | None = None
    ) -> Vector:
        """The derivatives with respect to the coordinates of a point; `participation` as in `decode`."""

    def gene_values(self, recipe: Recipe) -> RecipeGeneValues:
        """The gene values of a recipe in the tensors of the space."""


class Choice:
    """A choice between spaces: the first coordinate selects one, and each space has coordinates of its own."""

    def __init__(self, name: str, spaces: Mapping[str, NestableSpace]) -> None:
        self._name, self._labels, self._spaces = name, tuple(spaces), tuple(spaces.values())
        self.method = " or ".join(dict.fromkeys(space.method for space in self._spaces))
        self.out_dtype, self.seed = self._spaces[0].out_dtype, self._spaces[0].seed
        ends = np.cumsum([1, *(space.dimensions for space in self._spaces)])
        self._spans = [slice(first, last) for first, last in pairwise(ends)]
        self.dimensions = int(ends[-1])

    def coordinates(self) -> list[Coordinate]:
        """The choice as a category, then the axes of every space, with its label in front of their names."""
        labelled = zip(self._labels, self._spaces, strict=True)
        inner = [replace(c, name=f"{label}.{c.name}") for label, space in labelled for c in space.coordinates()]
        return [Coordinate(self._name, len(self._spaces), ordered=False), *inner]

    @property
    def optional_experts(self) -> int:
        """The largest number of experts that one of the spaces may leave out."""
        return max(space.optional_experts for space in self._spaces)

    def decode(self, vector: Vector, participation: Mapping[str, float] | None = None) -> Recipe:
        """The recipe of a point, from the space that its first coordinate selects."""
        place = self._place(vector)
        return self._spaces[place].decode(vector[self._spans[place]], participation)

    def _place(self, vector: Vector) -> int:
        """The index of the space that a point selects."""
        return min(int(np.clip(vector[0], 0.0, 1.0) * len(self._spaces)), len(self._spaces) - 1)

    @property
    def slope_genes(self) -> tuple[str, ...]:
        """The genes of all spaces that have a slope."""
        return tuple(dict.fromkeys(gene for space in self._spaces for gene in space.slope_genes))

    def pull_back(
        self, vector: Vector, sums: Mapping[Owner, Vector], participation: Mapping[str, float] | None = None
    ) -> Vector:
        """The derivatives of the coordinates of the selected space; those of the others are 0."""
        place, found = self._place(vector), np.zeros(self.dimensions)
        inner = self._spans[place]
        found[inner] = self._spaces[place].pull_back(vector[inner], sums, participation)
        return found

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """The point whose recipe is nearest, and its distance; only spaces of the recipe's method if there are any."""
        same = [space for space in self._spaces if recipe.method in space.method.split(" or ")] or self._spaces
        found = [(self._spaces.index(space), *space.nearest(recipe)) for space in same]
        place, inner, distance = min(found, key=lambda one: one[2])
        return self._outer_point(place, inner), distance

    def gene_values(self, recipe: Recipe) -> RecipeGeneValues:
        """The gene values of a recipe in the tensors of the spaces, which are the same for all of them."""
        return self._spaces[0].gene_values(recipe)

    def seed_points(self) -> dict[str, Vector]:
        """The seed points of every space, with its label in front of theirs."""
        return {
            f"{self._labels[place]} {label}": self._outer_point(place, vector)
            for place, space in enumerate(self._spaces)
            for label, vector in space.seed_points().items()
        }

    def default_points(self) -> dict[str, Vector]:
        """The textbook default of every space."""
        return {
            f"default ({self._labels[place]})": self._outer_point(place, vector)
            for place, space in enumerate(self._spaces)
            for vector in space.default_points().values()
        }

    def example_points(self) -> list[Vector]:
        """One point of every method."""
        pairs = enumerate(self._spaces)
        return [self._outer_point(place, vector) for place, space in pairs for vector in space.example_points()]

    def _outer_point(self, place: int, inner: Vector) -> Vector:
        """The point of this space that selects space number `place` and has its coordinates `inner`."""
        vector = np.full(self.dimensions, 0.5)
        vector[0] = (place + 0.5) / len(self._spaces)
        vector[self._spans[place]] = inner
        return vector


class MethodChoice(Choice):
    """A choice of the merge method."""

    def __init__(self, spaces: Sequence[NestableSpace]) -> None:
        super().__init__("method", {space.method: space for space in spaces})


class ScheduleChoice(Choice):
    """A choice of the schedule by which the coefficients of one method vary with depth.

    The default point is the same recipe under every schedule, so it is listed once.
    """

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        super().__init__("schedule", spaces)

    def default_points(self) -> dict[str, Vector]:
        """The method's textbook default, once."""
        return {label: self._outer_point(0, vector) for label, vector in self._spaces[0].default_points().items()}

    def example_points(self) -> list[Vector]:
        """One point of the method."""
        return [self._outer_point(0, vector) for vector in self._spaces[0].example_points()]


class ExpertSubset:
    """A choice of the experts that take part: one coordinate per expert, and it takes part from PRESENT_FROM on.

    The experts with the largest coordinates always take part, as many as the method needs. ConfigError if the method
    needs all experts.
    """

    def __init__(self, space: NestableSpace, experts: Sequence[str]) -> None:
        if not space.optional_experts > 0:
            raise ConfigError(f"space.subset: {space.method} needs all {len(experts)} experts; set it to false")
        self._space, self._labels = space, tuple(experts)
        self.method, self.out_dtype, self.seed = space.method, space.out_dtype, space.seed
        self.dimensions = len(self._labels) + space.dimensions

    def coordinates(self) -> list[Coordinate]:
        """A category of two cells for each expert, then the coordinates of the inner space."""
        return [*(Coordinate(f"takes_part.{label}", 2) for label in self._labels), *self._space.coordinates()]

    def decode(self, vector: Vector) -> Recipe:
        """The recipe of a point; an expert that does not take part has weight 0 or is left out."""
        return self._space.decode(vector[len(self._labels) :], self._participation(vector))

    def _participation(self, vector: Vector) -> dict[str, float]:
        return dict(zip(self._labels, vector[: len(self._labels)].tolist(), strict=True))

    @property
    def slope_genes(self) -> tuple[str, ...]:
        """The genes of the inner space that have a slope."""
        return self._space.slope_genes

    def pull_back(self, vector: Vector, sums: Mapping[Owner, Vector]) -> Vector:
        """The derivatives of the inner space's coordinates; participation has no slope."""
        count = len(self._labels)
        inner = self._space.pull_back(vector[count:], sums, self._participation(vector))
        return np.concatenate([np.zeros(count), inner])

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """The nearest point of the inner space, with the experts that have a weight in the recipe."""
        inner, distance = self._space.nearest(recipe)
        present = self._space.gene_values(recipe).participating_experts
        participation = [PRESENT if place in present else ABSENT for place in range(len(self._labels))]
        return np.concatenate([participation, inner]), distance

    def seed_points(self) -> dict[str, Vector]:
        """The inner space's seed points, with all experts."""
        return {label: self._with_all_experts(vector) for label, vector in self._space.seed_points().items()}

    def default_points(self) -> dict[str, Vector]:
        """The inner space's default points, with all experts."""
        return {label: self._with_all_experts(vector) for label, vector in self._space.default_points().items()}

    def example_points(self) -> list[Vector]:
        """The inner space's example points, with all experts."""
        return [self._with_all_experts(vector) for vector in self._space.example_points()]

    def _with_all_experts(self, inner: Vector) -> Vector:
        return np.concatenate([np.full(len(self._labels), PRESENT), inner])
