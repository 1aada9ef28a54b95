"""From a recipe back to a point: exact where the recipe lies in the space, the nearest point otherwise."""

from typing import Any

import numpy as np
import pytest

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.recipes import parse_recipe
from evomerge.recipes.document import to_document
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from evomerge.space.categorical import ExpertSubset, MethodChoice
from tests.space.test_space import BASE, COMPONENTS, EXPERTS, LAYERS, SCHEDULES, make, points

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


def arithmetic(*weights: Any, **settings: Any) -> Recipe:
    pairs = zip(EXPERTS.values(), weights, strict=False)
    sources = tuple(Source(ref, {"weight": weight}) for ref, weight in pairs)
    return recipe_of_models("task_arithmetic", BASE, sources, settings)


@every_schedule
@pytest.mark.parametrize("components", COMPONENTS, ids=str)
@pytest.mark.parametrize("method", methods.names())
def test_a_recipe_of_the_space_comes_back(method: str, components: Any, schedule: Any) -> None:
    space = make(method, schedule=schedule, components=components)
    for vector in points(space, 2):
        recipe = parse_recipe(to_document(space.decode(vector)))
        found, distance = space.nearest(recipe)
        assert distance < 1e-3
        again, (_, still) = space.decode(found), space.nearest(space.decode(found))
        assert still < 1e-3 and again.method == recipe.method
        if schedule != {"knots": 3}:
            assert found == pytest.approx(vector, abs=0.02) or method in ("linear", "nuslerp", "multislerp", "karcher")


def test_a_block_takes_the_mean_of_its_layers() -> None:
    space = make(schedule={"blocks": 2}, genes={"weight": {"low": 0.0, "high": 1.0}})
    vector, distance = space.nearest(arithmetic((0.0, 0.2, 0.6, 0.8), 0.5, 0.5))
    values = space.decode(vector)
    assert distance == pytest.approx(np.sqrt(np.mean([0.1**2, 0, 0]) * LAYERS / LAYERS), abs=0.02)
    assert space.nearest(values)[1] < 1e-6


def test_values_out_of_range_come_to_its_edge() -> None:
    space = make(genes={"weight": {"low": 0.0, "high": 1.0}})
    vector, distance = space.nearest(arithmetic(1.5, -0.5, 0.5))
    assert sorted({round(x, 9) for x in vector.tolist()}) == [0.0, 0.5, 1.0]
    assert distance == pytest.approx(np.sqrt((0.5**2 + 0.5**2) / 3), abs=1e-6)


def test_an_absent_expert_has_no_weight_and_lambda_scales() -> None:
    space = make(genes={"weight": {"low": 0.0, "high": 1.0}})
    vector, distance = space.nearest(arithmetic(0.8, 0.4, **{"lambda": 0.5}))
    assert vector.reshape(-1, 3)[0] == pytest.approx([0.4, 0.2, 0.0]) and distance == pytest.approx(0.0, abs=1e-9)


def test_an_average_of_models_is_a_sum_of_task_vectors() -> None:
    sources = tuple(Source(ref, {"weight": 2.0}) for ref in EXPERTS.values())
    vector, distance = make().nearest(recipe_of_models("linear", None, sources, {}))
    assert distance == pytest.approx(0.0, abs=1e-6)
    assert make().decode(vector) == make().decode(make().seeds()["uniform"])


def test_other_models_are_refused_by_name() -> None:
    foreign = recipe_of_models("task_arithmetic", BASE, (Source(ModelRef("org/other"), {"weight": 1.0}),), {})
    with pytest.raises(ConfigError, match=r"^it merges org/other, which is not among the experts$"):
        make().nearest(foreign)
    with pytest.raises(ConfigError, match=r"^its base is org/third, not org/base$"):
        make().nearest(recipe_of_models("task_arithmetic", ModelRef("org/third"), (), {}))


def test_a_choice_takes_the_recipes_own_method_and_a_subset_its_experts() -> None:
    ties, task = make("ties"), make("task_arithmetic")
    mixed = ExpertSubset(MethodChoice([task, ties]), list(EXPERTS))
    recipe = ties.decode(ties.encode({"weight": [1.0, 0.0, 1.0], "density": 0.5}))  # type: ignore[arg-type]
    vector, distance = mixed.nearest(recipe)
    assert distance < 1e-6 and vector[:4].tolist() == [0.75, 0.25, 0.75, 0.75]
    assert mixed.decode(vector).key() == mixed.decode(np.concatenate([vector[:4], vector[4:]])).key()
    assert mixed.decode(vector).method == "ties"


def test_another_method_takes_what_its_genes_share() -> None:
    vector, _ = make("task_arithmetic").nearest(
        make("dare_linear").decode(np.full(make("dare_linear").dimensions, 0.4))
    )
    assert np.ptp(vector) == pytest.approx(0.0)
