"""One merge of the benchmark: its members, the values of each repeat, and both ways to say them."""

import math
import random
from dataclasses import dataclass
from typing import Any

from _families import Members
from torch import Tensor

from evomerge.kernels.factors import Factors
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models

METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "slerp", "adapters")
ADAPTERS = 4
SPARSE = ("ties", "dare_ties")


@dataclass(frozen=True)
class Values:
    """The numbers of one candidate; every method takes what it knows."""

    base: float
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    lam: float
    t: float


@dataclass(frozen=True)
class Case:
    """A method over some members of a family. `label` is the method's name, or `adapters`."""

    label: str
    members: Members
    experts: tuple[ModelRef, ...]

    @property
    def method(self) -> str:
        """The merge method; adapters are merged by task arithmetic."""
        return "task_arithmetic" if self.label == "adapters" else self.label

    @property
    def labels(self) -> dict[str, Any]:
        """What a row says about it; `group` tells its rows from those of other cases."""
        size, experts = self.members.size, len(self.experts)
        labels = {"benchmark": "materialize", "case": self.label, "size": size, "experts": experts}
        return {**labels, "parameters": self.members.parameters, "group": f"{self.label} {size} {experts}"}

    @property
    def names(self) -> list[str]:
        """The tensors, which carry the names of the parameters."""
        return list(self.members.shapes)

    @property
    def bytes(self) -> int:
        """What must move: the base and what each expert brings are read, the result is written once."""
        total = 0
        for name, shape in self.members.shapes.items():
            total += 2 * 2 * math.prod(shape)
            for ref in self.experts:
                update = self.members.family.update(ref, name)
                parts = (update.up, update.down) if isinstance(update, Factors) else (update,)
                total += sum(part.nbytes for part in parts if isinstance(part, Tensor))
        return total

    def values(self, turn: int) -> Values:
        """New numbers for each repeat, the same ones for every contestant: nothing may be skipped as unchanged."""
        draw = random.Random(f"{self.label} {len(self.experts)} {turn}").uniform
        return Values(
            base=draw(0.2, 0.8),
            weights=tuple(draw(0.2, 0.8) for _ in self.experts),
            densities=tuple(round(draw(0.3, 0.7), 3) for _ in self.experts),  # the steps of a search
            lam=draw(0.7, 1.3),
            t=draw(0.2, 0.8),
        )

    def recipe(self, turn: int) -> Recipe:
        """The candidate of a repeat. The base takes part in `linear`, so that every method reads the same bytes."""
        found, base = self.values(turn), self.members.base
        sources = tuple(self._source(i, found) for i in range(len(self.experts)))
        if self.method == "linear":
            sources = (Source(base, {"weight": found.base}), *sources)
        settings = {"slerp": {"t": found.t}, "linear": {}}.get(self.method, {"lambda": found.lam})
        return recipe_of_models(self.method, base, sources, settings, out_dtype="bfloat16")

    def _source(self, index: int, values: Values) -> Source:
        if self.method == "slerp":
            return Source(self.experts[index])
        settings = {"weight": values.weights[index]}
        if self.method in SPARSE:
            settings["density"] = values.densities[index]
        return Source(self.experts[index], settings)

    def mergekit_parameters(self, turn: int) -> dict[str, Any]:
        """The same numbers as arguments of mergekit's merge methods, whose inputs are the base and the experts."""
        found = self.values(turn)
        if self.method == "slerp":
            return {"t": found.t}
        if self.method == "linear":
            return {"weight": [found.base, *found.weights]}
        sparse = {"density": list(found.densities)} if self.method in SPARSE else {}
        return {"weight": list(found.weights), "lambda": found.lam, **sparse}


def cases(members: Members, labels: list[str], counts: list[int]) -> list[Case]:
    """Every method at every number of experts, and those of a fixed number once."""
    found = []
    for label in labels:
        if label == "adapters":
            found.append(Case(label, members, members.adapters))
        elif label == "slerp":
            found.append(Case(label, members, members.experts[:1]))
        else:
            found += [Case(label, members, members.experts[:count]) for count in counts]
    return found
