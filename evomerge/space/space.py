"""The search space: the map between points of the unit cube and recipes.

Each axis maps linearly to a gene's range, so every point is valid and there are no mirrored optima or plateaus.
Weights that the method normalises are coded as a point of the simplex.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.methods import Owner
from evomerge.models import Layout
from evomerge.optimizers import Coordinate, Vector
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Setting, Source, recipe_of_models, simplify_setting
from evomerge.schema import EMPTY
from evomerge.space.axes import Axes, GeneSpec
from evomerge.space.axis_layout import lay_axes
from evomerge.space.genes import Genes
from evomerge.space.group_members import GroupMembers
from evomerge.space.inverse import RecipeGeneValues
from evomerge.space.pulling_back import PullBack
from evomerge.space.schedules import Spec

# Values at which these genes mask and scale nothing, so that weight 1 for a single expert gives that expert.
NEUTRAL_VALUES = {"density": 1.0, "gamma": 0.0, "epsilon": 0.0, "lambda": 1.0, "base_model_weight": 0.0}
PRESENT_FROM = 0.5  # the coordinate from which an expert takes part


class Space:
    """The search space of one method: its genes, per expert or shared, by group and by depth."""

    def __init__(
        self,
        *,
        method: str,
        base: ModelRef,
        experts: Mapping[str, ModelRef],
        layout: Layout,
        touched: Sequence[frozenset[str]],
        schedule: Spec | Sequence[Spec] = "all",
        components: str | Sequence[str] | Mapping[str, str | Sequence[str]] = (),
        outer: str = "joint",
        router: str = "merge",
        genes: Mapping[str, GeneSpec] = EMPTY,
        settings: Mapping[str, float | bool] = EMPTY,
        options: Mapping[str, str] = EMPTY,
        out_dtype: str | None = None,
        seed: int = 0,
        vocabulary: Mapping[str, Any] = EMPTY,
    ) -> None:
        self.method, self._module = method, methods.load(method)
        self.labels, self.experts, self.base = tuple(experts), tuple(experts.values()), base
        self._check_experts()
        self._genes = Genes(method, settings, genes, schedule)
        self.out_dtype, self.seed = out_dtype, seed
        self._recipe_options: dict[str, Any] = {"out_dtype": out_dtype, "seed": seed, "vocabulary": vocabulary}
        self._recipe_options["options"] = methods.choose_options(method, options)
        self._group_members = GroupMembers(layout, touched, components, outer, router)
        for group in self._group_members.groups:
            if group.frozen:
                self._genes.refuse_frozen_group(group)
        self.axes = lay_axes(self._genes, self._group_members, len(self.experts))
        self._pull_back = PullBack(self.axes, self._group_members)
        self.dimensions = sum(axes.size for axes in self.axes)
        if not self.dimensions:
            raise ConfigError("space: nothing is left to search; free a gene or add an expert")

    def coordinates(self) -> list[Coordinate]:
        """An axis per gene, expert, group and point of the schedule, which are the parts of its name."""
        found = []
        for axes in self.axes:
            owners = [self.labels[i] for i in axes.experts][: axes.columns] or ["all"]
            for point in range(axes.schedule.points):
                place = f"[{point}]" if axes.schedule.points > 1 else ""
                names = [f"{axes.gene.name}.{owner}.{axes.group.name}{place}" for owner in owners]
                found += [Coordinate(name, len(axes.gene.values)) for name in names]
        return found

    def decode(self, vector: Vector, participation: Mapping[str, float] | None = None) -> Recipe:
        """The recipe of a point; any point of the cube is a valid recipe.

        `participation` maps the label of each expert to a coordinate. An expert takes part from PRESENT_FROM on; if
        these are fewer than the method needs, those with the next largest coordinates take part as well.
        """
        if vector.shape != (self.dimensions,):
            raise ValueError(f"a vector of shape {vector.shape} for a space of {self.dimensions} dimensions")
        absent = self._absent_experts(participation) if participation else frozenset()
        tables: dict[tuple[str, int | None], dict[str, tuple[float, ...]]] = {}
        for axes in self.axes:
            values = _redistributed(axes, axes.decode(vector), absent)
            for column, expert in enumerate(axes.experts or (None,)):
                tables.setdefault((axes.gene.name, expert), {})[axes.group.name] = tuple(values[:, column].tolist())
        return self._recipe(tables, absent)

    @property
    def slope_genes(self) -> tuple[str, ...]:
        """The searched genes that have a slope."""
        return tuple(gene.name for gene, _ in self._genes.free if gene.slope)

    def pull_back(
        self, vector: Vector, sums: Mapping[Owner, Vector], participation: Mapping[str, float] | None = None
    ) -> Vector:
        """The derivatives with respect to the coordinates of a point, from those with respect to its recipe's values.

        `sums` maps a gene and the place of its expert in the recipe to one derivative per tensor of the layout; those
        of experts that do not take part are 0.
        """
        absent = self._absent_experts(participation) if participation else frozenset()
        present = [i for i in range(len(self.experts)) if i not in absent or self._keeps_absent_experts]
        places = {expert: place for place, expert in enumerate(present) if expert not in absent}
        return self._pull_back(vector, sums, places)

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """The point whose recipe is nearest, and its distance; for another method only the genes in common count."""
        values, members = self.gene_values(recipe), self._group_members.members
        fits = [values.fit(axes, members[axes.group.name], self._genes.additive_weights) for axes in self.axes]
        vector = np.concatenate([coordinates for coordinates, _ in fits])
        sizes = [axes.size for axes in self.axes]
        return vector, float(np.sqrt(np.average([error for _, error in fits], weights=sizes)))

    def gene_values(self, recipe: Recipe) -> RecipeGeneValues:
        """The gene values of a recipe in the tensors of this space."""
        return RecipeGeneValues(recipe, self._group_members.layout, self.base, self.experts)

    def example_points(self) -> list[Vector]:
        """One point of the method: the middle of the cube."""
        return [np.full(self.dimensions, 0.5)]

    def default_points(self) -> dict[str, Vector]:
        """The method's textbook default, if it is a point of the space."""
        return {label: vector for label, vector in self.seed_points().items() if label == "default"}

    def encode(self, values: Mapping[str, float | Sequence[float]]) -> Vector | None:
        """The point at which the genes have these values, one per expert or one for all, in every group.

        None if a value is out of its gene's range; genes that are not named have their default.
        """
        vector = np.empty(self.dimensions)
        for axes in self.axes:
            coordinates = axes.encode(values.get(axes.gene.name, axes.gene.default))
            if coordinates is None:
                return None
            vector[axes.start : axes.start + axes.size] = coordinates
        return vector

    def seed_points(self) -> dict[str, Vector]:
        """The textbook default, equal weights, each expert and the base, as far as they are points of the space.

        At the points of the base and the experts, all searched tensors are exactly theirs. Such a point may not exist,
        for instance if masks are fixed.
        """
        found = {"default": self.encode({})}
        if self._genes.searches_weights:
            count = len(self.experts)
            equal: dict[str, Any] = {"weight": [1.0 / count] * count}
            unmasked = self.encode({**NEUTRAL_VALUES, **equal})
            found["uniform"] = self.encode(equal) if unmasked is None else unmasked
            found["base"] = self.encode({"weight": [0.0] * count}) if self._genes.additive_weights else None
            for i, label in enumerate(self.labels):
                found[label] = self._single_expert_point([float(i == j) for j in range(count)])
        return {label: vector for label, vector in found.items() if vector is not None}

    @property
    def optional_experts(self) -> int:
        """The number of experts that may be left out, as the method needs the others."""
        return 0 if methods.banks_depend_on_experts(self._module) else len(self.experts) - self._module.EXPERTS[0]

    @property
    def _keeps_absent_experts(self) -> bool:
        """Whether absent experts stay in the recipe with weight 0, so that tables prepared for all stay valid.

        An unweighted sign election would count them, so there they are left out.
        """
        return "weight" in self._module.PER_EXPERT and self._recipe_options["options"].get("sign") != "unweighted"

    def _single_expert_point(self, weights: list[float]) -> Vector | None:
        """The point at which the merge is exactly one expert, or None; its weight is 1 and the others are 0."""
        unsearched = {**self._genes.settings, **self._genes.fixed}
        if any(unsearched.get(name, value) != value for name, value in NEUTRAL_VALUES.items()):
            return None
        if self._recipe_options["options"].get("sign") == "unweighted" and len(weights) > 1:
            return None  # experts of weight 0 take part in the sign election
        return self.encode({**NEUTRAL_VALUES, "weight": weights})

    def _absent_experts(self, participation: Mapping[str, float]) -> frozenset[int]:
        """The indices of the experts that do not take part."""
        coordinates = [participation[label] for label in self.labels]
        order = sorted(range(len(coordinates)), key=lambda place: -coordinates[place])
        fewest = len(coordinates) - self.optional_experts
        return frozenset(order[max(fewest, sum(x >= PRESENT_FROM for x in coordinates)) :])

    def _check_experts(self) -> None:
        """ConfigError if the method cannot merge so many experts.

        A method that merges the base with one expert also accepts two experts: the first one then replaces the base.
        """
        low, high = self._module.EXPERTS
        if len(self.experts) == high + 1 == 2:
            self.base, self.experts, self.labels = self.experts[0], self.experts[1:], self.labels[1:]
        if not low <= len(self.experts) <= high:
            takes = f"at least {low} experts" if len(self.experts) < low else f"at most {high} experts"
            takes = "the base with one expert, or two experts" if high == 1 else takes
            hint = "; set space.flow to search for an order of layers" * methods.copies_one_model(self._module)
            raise ConfigError(f"method {self.method} merges {takes}; got {len(self.experts)}{hint}")

    def _recipe(
        self, tables: Mapping[tuple[str, int | None], Mapping[str, tuple[float, ...]]], absent: frozenset[int]
    ) -> Recipe:
        def settings(per: str, owner: int | None) -> dict[str, Setting]:
            names = (gene.name for gene in self._genes.by_name.values() if gene.per == per)
            return {name: self._setting(name, tables.get((name, owner), {})) for name in names}

        sources = [Source(expert, settings("expert", i)) for i, expert in enumerate(self.experts) if i not in absent]
        if self._keeps_absent_experts:
            for i in sorted(absent):
                sources.insert(i, Source(self.experts[i], {**settings("expert", i), "weight": 0.0}))
        shared = {**self._genes.settings, **settings("group", None)}
        return recipe_of_models(self.method, self.base, tuple(sources), shared, **self._recipe_options)

    def _setting(self, name: str, table: Mapping[str, tuple[float, ...]]) -> Setting:
        schedules = {axes.group.name: axes.schedule for axes in self.axes if axes.gene.name == name}
        rules = []
        for group in self._group_members.groups:
            if group.name in self._group_members.skipped:
                continue
            values = table.get(group.name)
            fixed = self._genes.fixed_value(name, group, len(self.experts))
            value = fixed if values is None else schedules[group.name].expand(values)
            rules += [FilteredValue(text, value) for text in group.filters]
        return simplify_setting(tuple(rules))


def _redistributed(axes: Axes, values: Vector, absent: frozenset[int]) -> Vector:
    """Weights on a simplex with those of absent experts set to 0; equal weights for the others if their sum is 0."""
    if not absent or not axes.simplex:
        return values
    present = np.array([expert not in absent for expert in axes.experts], dtype=np.float64)
    kept: Vector = values * present
    kept[kept.sum(axis=1) == 0.0] = present
    return kept
