"""The data-flow space: every point is an order of layers that mergekit can read, and recipes lead back to points."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.models.family import Family
from evomerge.optimizers import Vector
from evomerge.recipes import parse_recipe
from evomerge.recipes.document import to_document
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from evomerge.space.build import SpaceBuilder
from evomerge.space.flow import FlowSpace
from evomerge.space.flow_config import FlowConfig, read_flow
from evomerge.space.flow_visits import Visit, visits_of
from tests.families import save_family

LAYERS = 6
BASE, MATH = ModelRef("base"), ModelRef("math")
BOTH = {"base": BASE, "math": MATH}


def space(models: dict[str, ModelRef] | None = None, **settings: Any) -> FlowSpace:
    flow = FlowConfig(**{"pinned": 0, **settings})
    return FlowSpace(flow, models or BOTH, LAYERS, base=BASE, outputs=("o_proj", "down_proj"), out_dtype="float32")


def points(found: FlowSpace, count: int = 40) -> list[Vector]:
    return list(np.random.default_rng(0).random((count, found.dimensions)))


def layers(recipe: Recipe) -> list[tuple[str, int]]:
    return [(visit.model.path, visit.layer) for visit in visits_of(recipe, LAYERS)]


SPACES = [
    {},
    {"repeats": 1, "scale": [0.5, 1.5]},
    {"repeats": 3, "blocks": 2},
    {"blocks": 4, "pinned": 1, "max_layers": 7, "scale": [0.0, 1.0]},
    {"pinned": 2, "max_layers": 5},
]


@pytest.mark.parametrize("settings", SPACES)
def test_every_point_is_a_part_of_the_sequence(settings: dict[str, Any]) -> None:
    found = space(**settings)
    assert len(found.coordinates()) == found.dimensions
    assert len({coordinate.name for coordinate in found.coordinates()}) == found.dimensions
    sequence = [(slot.model.path, layer) for slot in found.slots for layer in range(slot.first, slot.last)]
    for point in points(found):
        recipe = found.decode(point)
        pinned = settings.get("pinned", 0)
        visited = layers(recipe)
        assert 1 <= len(visited) <= found.max_layers
        assert visited[:pinned] == [("base", layer) for layer in range(pinned)]
        assert visited[len(visited) - pinned :] == [("base", layer) for layer in range(LAYERS - pinned, LAYERS)]
        left = iter(sequence)
        assert all(visit in left for visit in visited[pinned : len(visited) - pinned])
        assert parse_recipe(to_document(recipe)) == recipe
        assert recipe.key() == found.decode(point).key()


@pytest.mark.parametrize("settings", [one for one in SPACES if not one.get("blocks")])
def test_the_nearest_point_of_a_flow_is_the_flow(settings: dict[str, Any]) -> None:
    found = space(**settings)
    for point in points(found):
        recipe = found.decode(point)
        nearest, distance = found.nearest(recipe)
        assert distance == 0.0 and found.decode(nearest) == recipe


def test_some_layer_is_visited_in_any_case() -> None:
    found = space(blocks=3)
    assert layers(found.decode(np.zeros(found.dimensions))) == [("base", 0), ("base", 1)]
    lowest = np.full(found.dimensions, 0.1)
    lowest[4] = 0.2
    assert layers(found.decode(lowest)) == [("math", 2), ("math", 3)]


def test_the_lowest_coordinates_give_way_to_the_limit() -> None:
    found = space(repeats=1, max_layers=2)
    point = np.full(found.dimensions, 0.6)
    point[[3, 8]] = 0.9, 0.8
    assert layers(found.decode(point)) == [("base", 3), ("math", 2)]
    point[:] = 1.0  # of equal ones the first stay
    assert layers(found.decode(point)) == [("base", 0), ("base", 1)]


def test_a_scale_is_on_the_output_projections_of_its_visit() -> None:
    found = space(repeats=1, scale=[0.5, 1.5])
    point = np.zeros(found.dimensions)
    point[[1, 2, 9]] = 1.0
    point[12:] = 0.5
    point[12 + 9] = 0.25
    first, second = to_document(found.decode(point))["slices"]
    assert first == {"sources": [{"model": "base", "layer_range": [1, 3]}]}
    rules = [{"filter": "o_proj", "value": 0.75}, {"filter": "down_proj", "value": 0.75}, {"value": 1.0}]
    assert second == {"sources": [{"model": "math", "layer_range": [3, 4], "parameters": {"scale": rules}}]}


def test_seeds_are_the_models_and_the_textbook_stack() -> None:
    found = {label: layers(space(repeats=1).decode(point)) for label, point in space(repeats=1).seed_points().items()}
    assert found["base"] == [("base", layer) for layer in range(6)]
    assert found["math"] == [("math", layer) for layer in range(6)]
    assert found["frankenmerge"] == [("base", i) for i in range(4)] + [("math", i) for i in range(2, 6)]
    twice = space({"base": BASE}, repeats=2)
    assert layers(twice.decode(twice.default_points()["frankenmerge"])) == [
        ("base", i) for i in (0, 1, 2, 3, 2, 3, 4, 5)
    ]
    assert not space({"base": BASE}, repeats=1).default_points(), "one turn cannot repeat a layer"
    pinned = space(repeats=1, pinned=1)
    assert layers(pinned.decode(pinned.seed_points()["math"])) == [
        ("base", 0),
        *(("math", layer) for layer in range(1, 5)),
        ("base", 5),
    ]


def test_recipes_that_are_no_flow_have_no_point() -> None:
    sources = (Source(MATH, {"weight": 1.0}),)
    merge = recipe_of_models("task_arithmetic", BASE, sources, {})
    with pytest.raises(ConfigError, match="^task_arithmetic merges tensors and has no order of layers"):
        visits_of(merge, LAYERS)
    found, distance = space().nearest(merge)  # the first round of two: its merge is the base
    assert distance == 1.0 and layers(space().decode(found)) == [("base", layer) for layer in range(6)]
    other = space({"base": BASE, "law": ModelRef("law")}).recipe([Visit(ModelRef("law"), 2)])
    with pytest.raises(ConfigError, match="^it visits law, which is no model of the flow$"):
        space().nearest(other)
    whole = recipe_of_models("passthrough", None, (Source(MATH),), {})
    assert layers(space().decode(space().nearest(whole)[0])) == [("math", layer) for layer in range(6)]


REFUSED = [
    ({"scale": [1.2, 2.0]}, r"^space\.flow\.scale=\[1\.2, 2\.0\]: give \[low, high\] with low ≤ 1 ≤ high$"),
    ({"scale": [1.0]}, r"^space\.flow\.scale=\[1\.0\]: give"),
    ({"models": []}, r"^space\.flow\.models=\[\]: list base and experts, each once$"),
    ({"models": ["base", "mth"]}, r"^space\.flow\.models: mth is no model of this search \(did you mean 'math'\?\)$"),
    ({"repeats": 0}, r"^space\.flow\.repeats=0: give a whole number at least 1"),
    ({"repeat": 1}, r"^space\.flow\.repeat: unknown key"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_wrong_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_flow({"flow": settings}, ["passthrough"], ["math"])


def test_settings_that_do_not_fit_the_model_are_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^space\.flow\.blocks=7: the base has 6 layers, 0 of them pinned; give 1 to 6"
    ):
        space(blocks=7)
    with pytest.raises(ConfigError, match=r"^space\.flow\.pinned=3: fewer than half of 6 layers can be pinned$"):
        space(pinned=3)
    with pytest.raises(ConfigError, match=r"^space\.flow\.max_layers=3: the pinned layers and one slot are already 4"):
        space(pinned=1, blocks=2, max_layers=3)


def test_a_flow_is_of_passthrough_alone() -> None:
    with pytest.raises(ConfigError, match=r"^space\.flow: it copies layers; set method=passthrough with it$"):
        read_flow({"flow": {}}, ["task_arithmetic"], ["math"])
    with pytest.raises(ConfigError, match=r"^space\.subset: a flow has none"):
        read_flow({"flow": {}, "subset": True}, ["passthrough"], ["math"])
    assert read_flow({"flow": None}, ["ties"], ["math"]) is None


def test_a_model_of_several_stacks_is_refused(tmp_path: Path) -> None:
    folders = save_family("t5", tmp_path, experts=1)
    builder = SpaceBuilder(
        Family(folders.base, folders.experts), folders.base, {"one": folders.experts[0]}, "float32", 1
    )
    with pytest.raises(ConfigError, match=r"^space\.flow: the model has 2 layer stacks .*; a flow orders one stack$"):
        builder.of_flow(FlowConfig())
