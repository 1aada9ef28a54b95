"""The data-flow space: recipes that put the layers of some models in an order, with repeats and scales.

The coding is that of Akiba et al. (arXiv 2403.13187, section 3.2): an indicator for each slot of a fixed sequence, the
layers of all models repeated r times, so every candidate visits a subsequence. Their scale multiplies the hidden state
between two layers. Here it multiplies what the layers of a slot add, so that a candidate is a recipe of mergekit: in a
network with norms in front of each part and at the end, the state's scale alone has no effect on a later part, and
scaling a state by c is scaling all later additions by 1/c.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.methods import Owner
from evomerge.optimizers import Coordinate, Vector
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Settings, Slice, Source
from evomerge.schema import EMPTY
from evomerge.space.categorical import ABSENT, PRESENT
from evomerge.space.flow_config import METHOD, FlowConfig
from evomerge.space.flow_visits import Visit, runs_of, visits_of
from evomerge.space.space import PRESENT_FROM

DECIMALS = 3  # of a scale
FRANKENMERGE = "frankenmerge"  # the label of the textbook stack: two overlapping parts of three quarters each


@dataclass(frozen=True)
class Slot:
    """Layers [first, last) of one model, which a candidate visits or leaves out; `turn` counts the repeats."""

    label: str
    model: ModelRef
    first: int
    last: int
    turn: int

    @property
    def name(self) -> str:
        """The slot in the name of a coordinate."""
        layers = str(self.first) if self.last == self.first + 1 else f"{self.first}-{self.last - 1}"
        return f"{self.label}.{layers}.{self.turn}"


class FlowSpace:
    """The space of one flow over the layers of some models; `outputs` are the filters of what scales multiply."""

    method = METHOD
    slope_genes: tuple[str, ...] = ()

    def __init__(
        self,
        flow: FlowConfig,
        models: Mapping[str, ModelRef],
        layers: int,
        *,
        base: ModelRef,
        outputs: Sequence[str] = (),
        out_dtype: str | None = None,
        seed: int = 0,
        vocabulary: Mapping[str, Any] = EMPTY,
    ) -> None:
        self.base, self.out_dtype, self.seed, self._vocabulary = base, out_dtype, seed, vocabulary
        self.models, self.layers, self.outputs = dict(models), layers, tuple(outputs)
        self.max_layers = flow.max_layers or ceil(1.5 * layers)
        self.scale = None if flow.scale is None else (float(flow.scale[0]), float(flow.scale[1]))
        self._pinned = flow.pinned
        self._ends = self._block_ends(flow)  # the first layer of each block, and the end of the last
        self.slots = self._all_slots(flow)
        longest = max(slot.last - slot.first for slot in self.slots)
        if 2 * self._pinned + longest > self.max_layers:
            raise ConfigError(
                f"space.flow.max_layers={self.max_layers}: the pinned layers and one slot are already "
                f"{2 * self._pinned + longest}; raise it, or use more blocks"
            )
        self.dimensions = len(self.slots) * (1 if self.scale is None else 2)

    def coordinates(self) -> list[Coordinate]:
        """Whether each slot is visited, then the scale of each."""
        names = [slot.name for slot in self.slots]
        scales = [] if self.scale is None else [Coordinate(f"scale.{name}") for name in names]
        return [*(Coordinate(f"visit.{name}", 2) for name in names), *scales]

    def decode(self, vector: Vector) -> Recipe:
        """The recipe of a point, with at least one layer and at most `max_layers`: the lowest coordinates give way."""
        if vector.shape != (self.dimensions,):
            raise ValueError(f"a vector of shape {vector.shape} for a space of {self.dimensions} dimensions")
        count, scales = len(self.slots), self._scales(vector)
        order = sorted(range(count), key=lambda place: -vector[place])  # stable: of equal ones the first stays
        chosen = [place for place in order if vector[place] >= PRESENT_FROM]
        if not chosen and not self._pinned:
            chosen = order[:1]
        while sum(self._length(place) for place in chosen) > self.max_layers - 2 * self._pinned:
            chosen.pop()
        visits = [
            Visit(self.slots[place].model, layer, scales[place])
            for place in sorted(chosen)
            for layer in range(self.slots[place].first, self.slots[place].last)
        ]
        return self.recipe(visits)

    def recipe(self, visits: Sequence[Visit]) -> Recipe:
        """The recipe of a flow between the pinned layers."""
        first = [Visit(self.base, layer) for layer in range(self._pinned)]
        last = [Visit(self.base, layer) for layer in range(self.layers - self._pinned, self.layers)]
        slices = tuple(self._slice(run) for run in runs_of([*first, *visits, *last]))
        return Recipe(METHOD, self.base, slices, {}, self.out_dtype, self.seed, vocabulary=dict(self._vocabulary))

    def seed_points(self) -> dict[str, Vector]:
        """The base, each other model between the pinned layers, and the textbook stack, as far as they are points."""
        inner = range(self._pinned, self.layers - self._pinned)
        found = {label: self._point([Visit(ref, layer) for layer in inner]) for label, ref in self.models.items()}
        found |= self.default_points()
        return {label: vector for label, vector in found.items() if vector is not None}

    def default_points(self) -> dict[str, Vector]:
        """Two overlapping parts of about three quarters: of the first two models, or of one model twice."""
        first, *others = self.models.values()
        quarter = max(1, round((len(self._ends) - 1) / 4))
        low, high = range(self._ends[0], self._ends[-1 - quarter]), range(self._ends[quarter], self._ends[-1])
        point = self._point([*(Visit(first, i) for i in low), *(Visit((others or [first])[0], i) for i in high)])
        return {} if point is None else {FRANKENMERGE: point}

    def example_points(self) -> list[Vector]:
        """The first seed point, or the middle of the cube."""
        return [*self.seed_points().values(), np.full(self.dimensions, 0.5)][:1]

    def nearest(self, recipe: Recipe) -> tuple[Vector, float]:
        """The point that visits most of the recipe's layers in their order, and the share of layers that differ.

        For a recipe of another method this is the first starting point, as the base may be its merge: a search in two
        rounds names the run of its first round, whose items are then in neither `select` nor `holdout`. ConfigError for
        a recipe that copies layers of other models.
        """
        if recipe.method != METHOD:
            return self.example_points()[0], 1.0
        visits = visits_of(recipe, self.layers)
        if foreign := next((v.model for v in visits if v.model not in (self.base, *self.models.values())), None):
            raise ConfigError(f"it visits {foreign}, which is no model of the flow")
        vector = self._nearest_point(visits[self._pinned : len(visits) - self._pinned])
        wanted, ours = (
            [(v.model, v.layer) for v in one] for one in (visits, visits_of(self.decode(vector), self.layers))
        )
        return vector, 1.0 - SequenceMatcher(None, wanted, ours, autojunk=False).ratio()

    def pull_back(self, vector: Vector, sums: Mapping[Owner, Vector]) -> Vector:
        """Zeros: an order of layers has no slope."""
        return np.zeros(self.dimensions)

    def _block_ends(self, flow: FlowConfig) -> list[int]:
        inner = self.layers - 2 * flow.pinned
        if inner < 1:
            raise ConfigError(f"space.flow.pinned={flow.pinned}: fewer than half of {self.layers} layers can be pinned")
        blocks = flow.blocks or inner
        if not 1 <= blocks <= inner:
            raise ConfigError(
                f"space.flow.blocks={blocks}: the base has {self.layers} layers, {2 * flow.pinned} of them pinned; "
                f"give 1 to {max(1, inner)}, and pin less than half of the layers"
            )
        return [flow.pinned + place * inner // blocks for place in range(blocks + 1)]

    def _all_slots(self, flow: FlowConfig) -> tuple[Slot, ...]:
        return tuple(
            Slot(label, model, first, last, turn)
            for turn in range(flow.repeats)
            for label, model in self.models.items()
            for first, last in pairwise(self._ends)
        )

    def _length(self, place: int) -> int:
        return self.slots[place].last - self.slots[place].first

    def _scales(self, vector: Vector) -> list[float]:
        if self.scale is None:
            return [1.0] * len(self.slots)
        low, high = self.scale
        coordinates = np.clip(vector[len(self.slots) :], 0.0, 1.0)
        return [round(low + float(x) * (high - low), DECIMALS) for x in coordinates]

    def _slice(self, run: Sequence[Visit]) -> Slice:
        visit = run[0]
        rules = (*(FilteredValue(text, visit.scale) for text in self.outputs), FilteredValue(None, 1.0))
        settings: Settings = {} if visit.scale == 1.0 else {"scale": rules}
        return Slice((Source(visit.model, settings, (visit.layer, run[-1].layer + 1)),))

    def _point(self, visits: Sequence[Visit]) -> Vector | None:
        """The point of a flow between the pinned layers, or None if it is not one."""
        vector = self._nearest_point(visits)
        return vector if self.decode(vector) == self.recipe(visits) else None

    def _nearest_point(self, visits: Sequence[Visit]) -> Vector:
        """A layer goes to the first slot from the last one on that has it; half of its layers make a slot visited."""
        counts, scales, place = [0] * len(self.slots), [list[float]() for _ in self.slots], 0
        for visit in visits:
            later = (i for i in range(place, len(self.slots)) if self._holds(i, visit, counts[i]))
            found = next(later, None)
            if found is not None:
                place = found
                counts[found] += 1
                scales[found].append(visit.scale)
        shares = [count / self._length(i) for i, count in enumerate(counts)]
        vector = [PRESENT if share >= PRESENT_FROM else ABSENT for share in shares]
        if self.scale is not None:
            low, high = self.scale
            means = (float(np.mean(found or [1.0])) for found in scales)
            vector += [min(1.0, max(0.0, (mean - low) / (high - low))) for mean in means]
        return np.array(vector)

    def _holds(self, place: int, visit: Visit, count: int) -> bool:
        slot = self.slots[place]
        return slot.model == visit.model and slot.first + count <= visit.layer < slot.last
