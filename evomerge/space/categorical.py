"""Categorical genes around a search space: which method, which schedule, and which of the experts take part."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Vector
from evomerge.recipes import Recipe
from evomerge.space.inverse import RecipeValues
from evomerge.space.space import IN, SearchSpace, Space

WELL_IN = (1.0 + IN) / 2  # a coordinate that a step of the search does not carry out


class Inner(SearchSpace, Protocol):
    """A space that others can be put around."""

    @property
    def spare(self) -> int:
        """How many of its experts it can do without."""

    def decode(self, vector: Vector, part: Mapping[str, float] | None = None) -> Recipe:
        """The recipe of a point; `part` gives each expert a coordinate, from IN on it takes part."""

    def wanted(self, recipe: Recipe) -> RecipeValues:
        """What a recipe says of the tensors that the space is over."""


class Choice:
    """One coordinate chooses a space by its label, and each space has coordinates of its own behind it."""

    def __init__(self, what: str, spaces: Mapping[str, Inner]) -> None:
        self._what, self._labels, self._spaces = what, tuple(spaces), tuple(spaces.values())
        self.method = " or ".join(dict.fromkeys(space.method for space in self._spaces))
        self.out_dtype, self.seed = self._spaces[0].out_dtype, self._spaces[0].seed
        ends = np.cumsum([1, *(space.dimensions for space in self._spaces)])
        self._spans = [slice(first, last) for first, last in pairwise(ends)]
        self.dimensions = int(ends[-1])

    def coordinates(self) -> list[Coordinate]:
        """The choice, a category; then the axes of every space, whose names begin with its label."""
        labelled = zip(self._labels, self._spaces, strict=True)
        inner = [replace(c, name=f"{label}.{c.name}") for label, space in labelled for c in space.coordinates()]
        return [Coordinate(self._what, len(self._spaces), ordered=False), *inner]

    @property
    def spare(self) -> int:
        """How many experts the least demanding of the spaces can do without."""
        return max(space.spare for space in self._spaces)

    def decode(self, vector: Vector, part: Mapping[str, float] | None = None) -> Recipe:
        """The recipe of a point, in the space that its first coordinate chooses."""
        place = min(int(np.clip(vector[0], 0.0, 1.0) * len(self._spaces)), len(self._spaces) - 1)
        return self._spaces[place].decode(vector[self._spans[place]], part)

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """In the space that comes nearest, among those of the recipe's own method where there are any."""
        own = [space for space in self._spaces if recipe.method in space.method.split(" or ")] or self._spaces
        found = [(self._spaces.index(space), *space.nearest(recipe)) for space in own]
        place, inner, distance = min(found, key=lambda one: one[2])
        return self._embed(place, inner), distance

    def wanted(self, recipe: Recipe) -> RecipeValues:
        """What a recipe says of the tensors that the spaces are over."""
        return self._spaces[0].wanted(recipe)

    def seeds(self) -> dict[str, Vector]:
        """The points worth knowing first of every space."""
        return {
            f"{self._labels[place]} {label}": self._embed(place, vector)
            for place, space in enumerate(self._spaces)
            for label, vector in space.seeds().items()
        }

    def defaults(self) -> dict[str, Vector]:
        """The textbook default of every space."""
        return {
            f"default ({self._labels[place]})": self._embed(place, vector)
            for place, space in enumerate(self._spaces)
            for vector in space.defaults().values()
        }

    def examples(self) -> list[Vector]:
        """A point of every method."""
        pairs = enumerate(self._spaces)
        return [self._embed(place, vector) for place, space in pairs for vector in space.examples()]

    def _embed(self, place: int, inner: Vector) -> Vector:
        vector = np.full(self.dimensions, 0.5)
        vector[0] = (place + 0.5) / len(self._spaces)
        vector[self._spans[place]] = inner
        return vector


class MethodChoice(Choice):
    """Which method merges."""

    def __init__(self, spaces: Sequence[Inner]) -> None:
        super().__init__("method", {space.method: space for space in spaces})


class ScheduleChoice(Choice):
    """How the coefficients of one method vary with depth; a merge without a schedule is the same in all of them."""

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        super().__init__("schedule", spaces)

    def defaults(self) -> dict[str, Vector]:
        """The method's textbook default, once."""
        return {label: self._embed(0, vector) for label, vector in self._spaces[0].defaults().items()}

    def examples(self) -> list[Vector]:
        """A point of the method."""
        return [self._embed(0, vector) for vector in self._spaces[0].examples()]


class ExpertSubset:
    """One coordinate per expert says whether it takes part, from the middle of its axis on; the largest always does.

    ConfigError where no expert can be spared.
    """

    def __init__(self, space: Inner, experts: Sequence[str]) -> None:
        if not space.spare > 0:
            raise ConfigError(f"space.subset: {space.method} needs all {len(experts)} experts; set it to false")
        self._space, self._labels = space, tuple(experts)
        self.method, self.out_dtype, self.seed = space.method, space.out_dtype, space.seed
        self.dimensions = len(self._labels) + space.dimensions

    def coordinates(self) -> list[Coordinate]:
        """Yes or no for each expert, then the inner space's."""
        return [*(Coordinate(f"takes_part.{label}", 2) for label in self._labels), *self._space.coordinates()]

    def decode(self, vector: Vector) -> Recipe:
        """The recipe of a point; an expert that does not take part has weight 0, or is not in it."""
        count = len(self._labels)
        part = dict(zip(self._labels, vector[:count].tolist(), strict=True))
        return self._space.decode(vector[count:], part)

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """The inner space's, with the experts that have a weight in the recipe."""
        inner, distance = self._space.nearest(recipe)
        parts = self._space.wanted(recipe).parts
        taking = [WELL_IN if place in parts else 1.0 - WELL_IN for place in range(len(self._labels))]
        return np.concatenate([taking, inner]), distance

    def seeds(self) -> dict[str, Vector]:
        """The inner space's points, with every expert in."""
        return {label: self._all_in(vector) for label, vector in self._space.seeds().items()}

    def defaults(self) -> dict[str, Vector]:
        """The textbook defaults, with every expert in."""
        return {label: self._all_in(vector) for label, vector in self._space.defaults().items()}

    def examples(self) -> list[Vector]:
        """The inner space's examples, with every expert in."""
        return [self._all_in(vector) for vector in self._space.examples()]

    def _all_in(self, inner: Vector) -> Vector:
        return np.concatenate([np.full(len(self._labels), WELL_IN), inner])
