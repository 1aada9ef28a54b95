"""From a recipe to coordinates: the gene values of a recipe, fitted by the schedules of a space."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.merging import TensorPlan, plan
from evomerge.models import Layout
from evomerge.optimizers import Vector
from evomerge.recipes import ModelRef, Recipe
from evomerge.space.axes import Axes


class RecipeGeneValues:
    """The gene values of a recipe in every tensor, for a space with these experts.

    ConfigError if the recipe has another base or merges a model that is not among the experts.
    """

    def __init__(self, recipe: Recipe, layout: Layout, base: ModelRef | None, experts: Sequence[ModelRef]) -> None:
        self.method = recipe.method
        self._layout, self._recipe = layout, recipe
        known = {_identity(ref): place for place, ref in enumerate(experts)}
        bases = {recipe.base, *(part.base for part in recipe.slices)} - {None}
        if base is not None and any(_identity(ref) != _identity(base) for ref in bases if ref):
            raise ConfigError(f"its base is {next(ref for ref in bases if ref)}, not {base}")
        self._places = {ref: known.get(_identity(ref)) for ref in recipe.models() if ref not in bases}
        for ref, place in self._places.items():
            if place is None and (base is None or _identity(ref) != _identity(base)):
                raise ConfigError(f"it merges {ref}, which is not among the experts")

    @property
    def participating_experts(self) -> set[int]:
        """The indices of the experts that have a nonzero weight in some tensor."""
        found = (self.gene_values("weight", name, range(len(self._places)), 1.0) for name in self._plans)
        return {i for row in found for i, weight in enumerate(row) if weight}

    def gene_values(self, gene: str, name: str, experts: Sequence[int], default: float) -> list[float]:
        """A gene's value in one tensor for each of these experts, or the one shared value if `experts` is empty.

        An expert that is not in the recipe has weight 0.
        """
        entry = self._plans[name]
        if not experts:
            return [float(entry.shared.get(gene, entry.base.values.get(gene, default)))]
        first = [entry.base] if entry.base.model in self._places else []  # a recipe without a base: its first model
        inputs = {self._places[source.model]: source.values for source in (*first, *entry.experts)}
        absent = {"weight": 0.0}
        return [float(inputs.get(place, absent).get(gene, default)) for place in experts]

    def multipliers(self, name: str, weights: Sequence[float]) -> list[float]:
        """The factors of the task vectors in one tensor that these weights result in, after normalising and lambda."""
        shared = self._plans[name].shared
        module = methods.load(self.method)
        total = sum(weights) if methods.normalizes(module, shared) else 1.0
        return [weight / total * float(shared.get("lambda", 1.0)) if total else 0.0 for weight in weights]

    def fit(self, axes: Axes, members: frozenset[str], additive_weights: bool) -> tuple[Vector, float]:
        """The coordinates of one gene in one group by least squares, and the mean squared error in units of its range.

        `members` are the tensors of the group. With `additive_weights` the space neither normalises nor scales weights,
        so the recipe's multipliers are fitted.
        """
        names = sorted(members)
        target = np.array([self._target_row(axes, name, additive_weights) for name in names])
        basis = np.array([axes.schedule.weights(self._layout.depth(name)) for name in names])
        rows = np.linalg.lstsq(basis, target, rcond=None)[0]
        coordinates = axes.nearest(rows)
        vector = np.zeros(axes.start + axes.size)
        vector[axes.start :] = coordinates
        residuals = basis @ axes.decode(vector) - target
        return coordinates, float(np.mean((residuals / (axes.gene.high - axes.gene.low)) ** 2))

    def _target_row(self, axes: Axes, name: str, additive_weights: bool) -> list[float]:
        gene = axes.gene
        found = self.gene_values(gene.name, name, axes.experts, gene.default)
        if gene.name != "weight":
            return found
        if additive_weights:
            return self.multipliers(name, found)
        total = sum(found)
        return [value / total for value in found] if axes.simplex and total else found

    @cached_property
    def _plans(self) -> Mapping[str, TensorPlan]:
        found = {entry.name: entry for entry in plan(self._recipe, self._layout)}
        if set(found) != set(self._layout.names):
            raise ConfigError("it has another number of layers than the base")
        return found


def _identity(ref: ModelRef) -> tuple[str, str | None]:
    """What identifies a model: resolved paths, without the revision."""
    return _resolved(ref.path), _resolved(ref.adapter) if ref.adapter else None


def _resolved(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path
