"""The search space: a point of the unit cube ↔ a recipe.

The coding is bounded and unfolded: each axis maps linearly to a gene's range, so there are no mirrored optima and no
plateaus. Weights that the method normalises are coded as a point of the simplex.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.methods import Gene
from evomerge.models import Group, Layout
from evomerge.optimizers import Coordinate, Vector
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Setting, Source, recipe_of_models, simplify_setting
from evomerge.schema import EMPTY
from evomerge.space.axes import Axes, GeneSpec
from evomerge.space.genes import Genes
from evomerge.space.group_members import GroupMembers
from evomerge.space.inverse import RecipeValues
from evomerge.space.schedules import Schedule, Spec

# Where a gene of this name masks and scales nothing, so that the weight of one expert alone gives that expert.
NEUTRAL = {"density": 1.0, "gamma": 0.0, "epsilon": 0.0, "lambda": 1.0, "base_model_weight": 0.0}
IN = 0.5  # from this coordinate on an expert takes part


class SearchSpace(Protocol):
    """What a search asks of a space: recipes for points of the unit cube."""

    method: str
    out_dtype: str | None
    seed: int
    dimensions: int

    def coordinates(self) -> list[Coordinate]:
        """What each axis is."""

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """The point whose recipe comes nearest, and how far it is: the root mean square in units of the genes' ranges.

        ConfigError where the recipe merges other models.
        """

    def decode(self, vector: Vector) -> Recipe:
        """The recipe of a point; any point of the cube is a valid recipe."""

    def seeds(self) -> dict[str, Vector]:
        """The points worth knowing first."""

    def defaults(self) -> dict[str, Vector]:
        """Label → point of every baseline that the space's methods bring."""

    def examples(self) -> list[Vector]:
        """A point of every method."""


class Space:
    """What a search varies: the genes of one method, per expert or shared, by group and depth."""

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
        genes: Mapping[str, GeneSpec] = EMPTY,
        settings: Mapping[str, float | bool] = EMPTY,
        options: Mapping[str, str] = EMPTY,
        out_dtype: str | None = None,
        seed: int = 0,
    ) -> None:
        self.method, self._module = method, methods.load(method)
        self.labels, self.experts, self.base = tuple(experts), tuple(experts.values()), base
        self._endpoints()
        self._genes = Genes(method, settings, genes, schedule)
        self.out_dtype, self.seed = out_dtype, seed
        self._rest: dict[str, Any] = {"out_dtype": out_dtype, "seed": seed}
        self._rest["options"] = methods.choose_options(method, options)
        self._group_members = GroupMembers(layout, touched, components, outer)
        if any(group.frozen for group in self._group_members.groups):
            self._genes.refuse_frozen()
        self.axes = self._axes()
        self.dimensions = sum(axes.size for axes in self.axes)
        if not self.dimensions:
            raise ConfigError("space: nothing is left to search; free a gene or add an expert")

    def coordinates(self) -> list[Coordinate]:
        """A continuous axis per gene, expert, group and place in the schedule, which make its name."""
        found = []
        for axes in self.axes:
            owners = [self.labels[i] for i in axes.experts][: axes.columns] or ["all"]
            for point in range(axes.schedule.points):
                place = f"[{point}]" if axes.schedule.points > 1 else ""
                found += [Coordinate(f"{axes.gene.name}.{owner}.{axes.group.name}{place}") for owner in owners]
        return found

    def decode(self, vector: Vector, part: Mapping[str, float] | None = None) -> Recipe:
        """The recipe of a point; any point of the cube is a valid recipe.

        `part` gives each expert a coordinate, from IN on it takes part; so do as many of the next as the method needs.
        """
        if vector.shape != (self.dimensions,):
            raise ValueError(f"a vector of shape {vector.shape} for a space of {self.dimensions} dimensions")
        absent = self._absent(part) if part else frozenset()
        tables: dict[tuple[str, int | None], dict[str, tuple[float, ...]]] = {}
        for axes in self.axes:
            values = _shared_out(axes, axes.decode(vector), absent)
            for column, expert in enumerate(axes.experts or (None,)):
                tables.setdefault((axes.gene.name, expert), {})[axes.group.name] = tuple(values[:, column].tolist())
        return self._recipe(tables, absent)

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """The point whose recipe comes nearest, and how far it is; one of another method by the genes it shares."""
        wanted = self.wanted(recipe)
        found = [
            wanted.block(axes, self._group_members.members[axes.group.name], self._genes.adds) for axes in self.axes
        ]
        vector = np.concatenate([part for part, _ in found])
        sizes = [axes.size for axes in self.axes]
        return vector, float(np.sqrt(np.average([missed for _, missed in found], weights=sizes)))

    def wanted(self, recipe: Recipe) -> RecipeValues:
        """What a recipe says of the tensors that this space is over."""
        return RecipeValues(recipe, self._group_members.layout, self.base, self.experts)

    def examples(self) -> list[Vector]:
        """A point of every method that the space holds."""
        return [np.full(self.dimensions, 0.5)]

    def defaults(self) -> dict[str, Vector]:
        """The method's textbook default as a baseline, where the space holds it."""
        return {label: vector for label, vector in self.seeds().items() if label == "default"}

    def encode(self, values: Mapping[str, float | Sequence[float]]) -> Vector | None:
        """The point whose genes have these values (one per expert, or one for all) in every group.

        None where a value is outside its gene's range; genes not named take their default.
        """
        vector = np.empty(self.dimensions)
        for axes in self.axes:
            part = axes.encode(values.get(axes.gene.name, axes.gene.default))
            if part is None:
                return None
            vector[axes.start : axes.start + axes.size] = part
        return vector

    def seeds(self) -> dict[str, Vector]:
        """The points worth knowing first, where they exist: the textbook default, all experts alike, each expert, base.

        Base and experts are exactly that, in all that is searched; under some masks there is no such point.
        """
        found = {"default": self.encode({})}
        if self._genes.weighs:
            count = len(self.experts)
            alike: dict[str, Any] = {"weight": [1.0 / count] * count}
            whole = self.encode({**NEUTRAL, **alike})
            found["uniform"] = self.encode(alike) if whole is None else whole
            found["base"] = self.encode({"weight": [0.0] * count}) if self._genes.adds else None
            for i, label in enumerate(self.labels):
                found[label] = self._alone([float(i == j) for j in range(count)])
        return {label: vector for label, vector in found.items() if vector is not None}

    @property
    def spare(self) -> int:
        """How many of its experts the method can do without."""
        return 0 if methods.banks_depend_on_experts(self._module) else len(self.experts) - self._module.EXPERTS[0]

    def _alone(self, weights: list[float]) -> Vector | None:
        """The point at which one expert comes back as it is."""
        held = {**self._genes.settings, **self._genes.fixed}
        if any(held.get(name, value) != value for name, value in NEUTRAL.items()):
            return None
        if self._rest["options"].get("sign") == "unweighted" and len(weights) > 1:  # the others vote too
            return None
        return self.encode({**NEUTRAL, "weight": weights})

    def _absent(self, part: Mapping[str, float]) -> frozenset[int]:
        """The places of the experts that do not take part."""
        shares = [part[label] for label in self.labels]
        order = sorted(range(len(shares)), key=lambda place: -shares[place])
        fewest = len(shares) - self.spare
        return frozenset(order[max(fewest, sum(share >= IN for share in shares)) :])

    def _endpoints(self) -> None:
        """A method between two models takes the base and one expert, or two experts and no base."""
        low, high = self._module.EXPERTS
        if len(self.experts) == high + 1 == 2:
            self.base, self.experts, self.labels = self.experts[0], self.experts[1:], self.labels[1:]
        if not low <= len(self.experts) <= high:
            takes = f"at least {low} experts" if len(self.experts) < low else f"at most {high} experts"
            takes = "the base with one expert, or two experts" if high == 1 else takes
            raise ConfigError(f"method {self.method} merges {takes}; got {len(self.experts)}")

    def _axes(self) -> list[Axes]:
        found: list[Axes] = []
        for gene, schedule in self._genes.free:
            for group in self._group_members.groups:
                start = sum(axes.size for axes in found)
                found += self._axes_of(gene, group, schedule, start)
        return found

    def _axes_of(self, gene: Gene, group: Group, spec: Any, start: int) -> list[Axes]:
        """The gene's axes in a group; none where it is frozen or no expert brings anything to it."""
        touching = self._group_members.touching(group)
        if group.frozen or not touching:
            return []
        simplex = gene.name == "weight" and self._genes.normalizes
        everyone = tuple(range(len(self.experts)))
        counts = gene.name == "weight" and not self._genes.adds  # even where the expert is the base
        experts = () if gene.per == "group" else everyone if counts else touching
        layers = self._group_members.layers[group.name] if group.layered else 1
        schedule = Schedule.parse(spec if group.layered else "all", layers, "space.schedule")
        axes = Axes(gene, group, schedule, experts, simplex, start)
        return [axes] if axes.size else []

    def _recipe(
        self, tables: Mapping[tuple[str, int | None], Mapping[str, tuple[float, ...]]], absent: frozenset[int]
    ) -> Recipe:
        def settings(per: str, owner: int | None) -> dict[str, Setting]:
            own = (gene.name for gene in self._genes.named.values() if gene.per == per)
            return {name: self._setting(name, tables.get((name, owner), {})) for name in own}

        sources = [Source(expert, settings("expert", i)) for i, expert in enumerate(self.experts) if i not in absent]
        # With weight 0 instead, so that what was prepared still serves; but an unweighted election counts every expert.
        if "weight" in self._module.PER_EXPERT and self._rest["options"].get("sign") != "unweighted":
            for i in sorted(absent):
                sources.insert(i, Source(self.experts[i], {**settings("expert", i), "weight": 0.0}))
        shared = {**self._genes.settings, **settings("group", None)}
        return recipe_of_models(self.method, self.base, tuple(sources), shared, **self._rest)

    def _setting(self, name: str, table: Mapping[str, tuple[float, ...]]) -> Setting:
        schedules = {axes.group.name: axes.schedule for axes in self.axes if axes.gene.name == name}
        rules = []
        for group in self._group_members.groups:
            if group.name in self._group_members.skipped:
                continue
            values = table.get(group.name)
            idle = self._genes.idle(name, group, len(self.experts))
            value = idle if values is None else schedules[group.name].expand(values)
            rules += [FilteredValue(text, value) for text in group.filters]
        return simplify_setting(tuple(rules))


def _shared_out(axes: Axes, values: Vector, absent: frozenset[int]) -> Vector:
    """Normalised weights without those of the absent experts, alike where nothing is left of them."""
    if not absent or not axes.simplex:
        return values
    present = np.array([expert not in absent for expert in axes.experts], dtype=np.float64)
    kept: Vector = values * present
    kept[kept.sum(axis=1) == 0.0] = present
    return kept
