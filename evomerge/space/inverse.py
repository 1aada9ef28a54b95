"""From a recipe back to coordinates: the values that it gives a gene, fitted by what a space's schedules can say."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.merging import TensorPlan, plan
from evomerge.models import Layout
from evomerge.optimizers import Vector
from evomerge.recipes import ModelRef, Recipe, evaluate
from evomerge.space.axes import Axes


class RecipeValues:
    """What a recipe says of every tensor, in the terms of a space with these experts.

    ConfigError where it merges another model, or has another base.
    """

    def __init__(self, recipe: Recipe, layout: Layout, base: ModelRef | None, experts: Sequence[ModelRef]) -> None:
        self.method = recipe.method
        self._layout, self._recipe = layout, recipe
        known = {_identity(ref): place for place, ref in enumerate(experts)}
        own = {recipe.base, *(part.base for part in recipe.slices)} - {None}
        if base is not None and any(_identity(ref) != _identity(base) for ref in own if ref):
            raise ConfigError(f"its base is {next(ref for ref in own if ref)}, not {base}")
        self._places = {ref: known.get(_identity(ref)) for ref in recipe.models() if ref not in own}
        for ref, place in self._places.items():
            if place is None and (base is None or _identity(ref) != _identity(base)):
                raise ConfigError(f"it merges {ref}, which is not among the experts")

    @property
    def parts(self) -> set[int]:
        """The places of the experts that are in the recipe with any weight."""
        found = (self.values("weight", name, range(len(self._places)), 1.0) for name in self._plans)
        return {i for row in found for i, weight in enumerate(row) if weight}

    def values(self, gene: str, name: str, experts: Sequence[int], default: float) -> list[float]:
        """A gene's value in one tensor, for each of these experts; an expert that is not in the recipe has no weight.

        Without experts, the one value that all share.
        """
        entry = self._plans[name]
        if not experts:
            return [float(entry.shared.get(gene, entry.base.values.get(gene, default)))]
        own = [entry.base] if entry.base.model in self._places else []  # a recipe without a base: its first model
        inputs = {self._places[given.model]: given.values for given in (*own, *entry.experts)}
        absent = {"weight": 0.0}
        return [float(inputs.get(place, absent).get(gene, default)) for place in experts]

    def scaled(self, name: str, weights: Sequence[float]) -> list[float]:
        """Weights of one tensor as plain multiples of the task vectors."""
        shared = self._plans[name].shared
        module = methods.load(self.method)
        total = sum(weights) if methods.normalizes(module, shared) else 1.0
        return [weight / total * float(shared.get("lambda", 1.0)) if total else 0.0 for weight in weights]

    def block(self, axes: Axes, members: frozenset[str], plain: bool) -> tuple[Vector, float]:
        """The coordinates of one gene in one group, by least squares, and the sum of squares that they miss it by.

        `plain` for weights that the space neither normalises nor scales.
        """
        names = sorted(members)
        target = np.array([self._row(axes, name, plain) for name in names])
        basis = np.array([[self._share(axes, point, name) for point in range(axes.schedule.points)] for name in names])
        rows = np.linalg.lstsq(basis, target, rcond=None)[0]
        part = axes.nearest(rows)
        vector = np.zeros(axes.start + axes.size)
        vector[axes.start :] = part
        missed = basis @ axes.decode(vector) - target
        return part, float(np.mean((missed / (axes.gene.high - axes.gene.low)) ** 2))

    def _row(self, axes: Axes, name: str, plain: bool) -> list[float]:
        gene = axes.gene
        found = self.values(gene.name, name, axes.experts, gene.default)
        if gene.name != "weight":
            return found
        if plain:
            return self.scaled(name, found)
        total = sum(found)
        return [value / total for value in found] if axes.simplex and total else found

    def _share(self, axes: Axes, point: int, name: str) -> float:
        """How much one point of the schedule counts in a tensor."""
        unit = [float(point == other) for other in range(axes.schedule.points)]
        depth = self._layout.depth(name)
        return float(evaluate(axes.schedule.expand(unit), (name,), depth) or 0.0)

    @cached_property
    def _plans(self) -> Mapping[str, TensorPlan]:
        found = {entry.name: entry for entry in plan(self._recipe, self._layout)}
        if set(found) != set(self._layout.names):
            raise ConfigError("it has another number of layers than the base")
        return found


def _identity(ref: ModelRef) -> tuple[str, str | None]:
    """A model whatever its folder is called from, and at whatever revision."""
    return _place(ref.path), _place(ref.adapter) if ref.adapter else None


def _place(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path
