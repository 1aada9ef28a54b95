"""From slopes of a recipe's values to slopes of coordinates: against differences of what a vector decodes to."""

from typing import Any

import numpy as np
import pytest

from evomerge.merging import plan
from evomerge.models.groups import Layout
from evomerge.recipes.recipe import ModelRef, Recipe
from evomerge.space.categorical import ExpertSubset, MethodChoice, NestableSpace, ScheduleChoice
from evomerge.space.space import Space

LAYERS, STEP = 5, 1e-4
NAMES = (
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(LAYERS) for part in ("self_attn.q_proj", "mlp.up_proj")),
)
LAYOUT = Layout(NAMES)
EXPERTS = {label: ModelRef(label) for label in "abc"}
EVERYTHING = frozenset(NAMES)


def space(method: str = "task_arithmetic", touched: Any = None, **settings: Any) -> Space:
    touched = touched or [EVERYTHING] * 3
    return Space(method=method, base=ModelRef("base"), experts=EXPERTS, layout=LAYOUT, touched=touched, **settings)


def values(recipe: Recipe, owner: tuple[str, int | None]) -> np.ndarray[Any, Any]:
    """The value of one gene in every tensor, as the merge reads it."""
    gene, expert = owner
    found = [(e.shared if expert is None else e.experts[expert].values) for e in plan(recipe, LAYOUT)]
    return np.array([float(each[gene]) for each in found])


SPACES: dict[str, NestableSpace] = {
    "one value": space(),
    "blocks": space(schedule="blocks:2"),
    "knots and components": space(schedule="knots:3", components=["attention", "mlp"], outer="each"),
    "each": space(schedule="each", components={"q": "q_proj", "up": "up_proj"}),
    "a range below zero": space(genes={"weight": {"low": -0.5, "high": 1.5}}),
    "an expert that changes little": space(touched=[EVERYTHING, frozenset(NAMES[1:2]), EVERYTHING]),
    "simplex": space("ties", schedule="blocks:2"),
    "a gene of all experts": space("ties", genes={"density": 0.5}, settings={"normalize": False}),
    "methods": MethodChoice([space("ties"), space()]),
    "schedules": ScheduleChoice({"all": space(), "each": space(schedule="each")}),
}


@pytest.mark.parametrize("name", SPACES)
def test_slopes_of_coordinates_are_differences_of_the_decoded_values(name: str) -> None:
    """A loss that is linear in the values: Σ c·value, with random c for each gene, expert and tensor."""
    searched, generator = SPACES[name], np.random.default_rng(3)
    vector = generator.uniform(0.2, 0.8, searched.dimensions)
    coordinates = searched.coordinates()
    owners = [(gene, i) for gene in searched.slope_genes for i in (0, 1, 2, None)]
    factors: dict[tuple[str, int | None], Any] = {owner: generator.normal(size=len(NAMES)) for owner in owners}

    def loss(at: Any) -> float:
        recipe, total = searched.decode(at), 0.0
        for owner, factor in factors.items():
            try:
                total += float((factor * values(recipe, owner)).sum())
            except KeyError:  # the method has no such gene, or it has no owner of this kind
                continue
        return total

    known = {owner: factor for owner, factor in factors.items() if _has(searched.decode(vector), owner)}
    found = searched.pull_back(vector, known)
    for place, coordinate in enumerate(coordinates):
        sides = [vector.copy(), vector.copy()]
        sides[0][place] += STEP
        sides[1][place] -= STEP
        wanted = (loss(sides[0]) - loss(sides[1])) / (2 * STEP)
        if coordinate.levels or coordinate.name.split(".")[-3:][0] == "density" or "density" in coordinate.name:
            wanted = 0.0
        assert found[place] == pytest.approx(wanted, rel=1e-2, abs=2e-2), coordinate.name


def _has(recipe: Recipe, owner: tuple[str, int | None]) -> bool:
    try:
        return bool(values(recipe, owner).size)
    except KeyError:
        return False


def test_experts_that_do_not_take_part_have_no_slope() -> None:
    subset = ExpertSubset(space(), list(EXPERTS))
    vector = np.array([0.9, 0.1, 0.8, *[0.4] * (subset.dimensions - 3)])
    sums = {("weight", i): np.ones(len(NAMES)) for i in range(3)}
    found = subset.pull_back(vector, sums)
    names = [coordinate.name for coordinate in subset.coordinates()]
    moving = [name.startswith("weight") and ".b." not in name for name in names]
    assert [slope != 0.0 for slope in found] == moving


def test_genes_without_a_slope_stay_where_they_are() -> None:
    searched = space("ties", settings={"normalize": False})
    assert searched.slope_genes == ("weight",)
    found = searched.pull_back(np.full(searched.dimensions, 0.4), {("weight", 0): np.ones(len(NAMES))})
    names = [coordinate.name for coordinate in searched.coordinates()]
    assert all((slope != 0.0) == name.startswith("weight.a") for name, slope in zip(names, found, strict=True))


def test_weights_that_are_switched_have_no_slope() -> None:
    searched = space(genes={"weight": {"values": [0, 1]}}, schedule="each")
    assert searched.slope_genes == () and {c.levels for c in searched.coordinates()} == {2}
    recipe = searched.decode(np.linspace(0.0, 1.0, searched.dimensions))
    assert {float(v) for i in range(3) for v in values(recipe, ("weight", i))} == {0.0, 1.0}
