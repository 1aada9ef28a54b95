"""Schedules: what each kind expands to, and what is refused."""

from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.recipes.recipe import Setting, evaluate
from evomerge.space.schedules import Schedule


def per_layer(spec: Any, values: list[float], layers: int = 6) -> list[Any]:
    setting: Setting = Schedule.parse(spec, layers, "space.schedule").expand(values)
    return [evaluate(setting, ("w",), layer / (layers - 1)) for layer in range(layers)]


def test_all_is_one_value() -> None:
    assert per_layer("all", [0.3]) == [0.3] * 6


def test_each_is_a_value_a_layer() -> None:
    values = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7]
    assert per_layer("each", values) == pytest.approx(values)


@pytest.mark.parametrize("spec", [{"blocks": 3}, "blocks:3"])
def test_blocks_are_runs_of_equal_layers(spec: Any) -> None:
    assert per_layer(spec, [0.1, 0.2, 0.3]) == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_uneven_blocks_differ_by_one_layer_at_most() -> None:
    found = per_layer({"blocks": 4}, [0.0, 1.0, 2.0, 3.0])
    sizes = [sum(value == pytest.approx(block) for value in found) for block in range(4)]
    assert sum(sizes) == 6 and set(sizes) == {1, 2} and found == sorted(found)


@pytest.mark.parametrize("spec", [{"knots": 3}, "knots:3"])
def test_knots_are_interpolated_from_first_to_last_layer(spec: Any) -> None:
    assert per_layer(spec, [0.0, 1.0, 0.0]) == pytest.approx([0.0, 0.4, 0.8, 0.8, 0.4, 0.0])


def test_one_point_is_a_scalar_of_any_kind() -> None:
    assert Schedule.parse({"knots": 1}, 6, "k").expand([0.5]) == 0.5
    assert Schedule.parse({"blocks": 1}, 6, "k").expand([0.5]) == 0.5
    assert Schedule.parse("each", 1, "k").expand([0.5]) == 0.5


BAD = ["knot", "", None, 3, {"knots": 0}, {"knots": 7}, {"blocks": -1}, {"blocks": 1.5}, {"knots": "two"}, {"waves": 3}]


@pytest.mark.parametrize("spec", [*BAD, {"knots": 2, "blocks": 2}, {}, "blocks", "knots:9"], ids=str)
def test_anything_else_is_refused_by_its_key(spec: Any) -> None:
    with pytest.raises(ConfigError, match=r"^space\.genes\.weight\.schedule=.*choose all, each.*6 layers") as error:
        Schedule.parse(spec, 6, "space.genes.weight.schedule")
    assert "\n" not in str(error.value)
