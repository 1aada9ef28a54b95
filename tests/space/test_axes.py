"""Coordinates of one gene in one group, and how an experiment narrows a gene."""

from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.methods import Gene
from evomerge.models.groups import Group
from evomerge.space.axes import Axes, narrow
from evomerge.space.schedules import Schedule

GENE = Gene("weight", 0.0, 2.0, 0.5, base=0.0)
GROUP = Group("mlp", ("mlp.",), layered=True)


def axes(experts: tuple[int, ...], simplex: bool, points: int = 3) -> Axes:
    return Axes(GENE, GROUP, Schedule("knots", points, 8), experts, simplex, start=2)


def test_decoding_reads_its_own_part_of_the_vector() -> None:
    vector = np.linspace(0, 1, 12)
    values = axes((0, 1), simplex=False).decode(vector)
    assert values.shape == (3, 2)
    np.testing.assert_allclose(values.ravel(), np.round(2 * vector[2:8], 6))


@pytest.mark.parametrize("simplex", [False, True])
def test_encoding_inverts_decoding(simplex: bool) -> None:
    wanted = [0.2, 0.5, 0.3]
    own = axes((0, 1, 2), simplex)
    part = own.encode(wanted)
    assert part is not None and part.shape == (own.size,)
    np.testing.assert_allclose(own.decode(np.concatenate([np.zeros(2), part])), np.tile(wanted, (3, 1)), atol=1e-6)


def test_a_value_out_of_range_has_no_coordinates() -> None:
    assert axes((0,), simplex=False).encode(2.1) is None
    assert axes((0, 1), simplex=True).encode([1.0, -0.1]) is None
    assert axes((0, 1), simplex=True).encode([0.0, 0.0]) is None


def test_narrowing() -> None:
    gene, fixed, schedule = narrow(GENE, {"low": 0.7, "schedule": "each"}, "all")
    assert (gene.low, gene.high, gene.default, fixed, schedule) == (0.7, 2.0, 0.7, None, "each")
    assert narrow(GENE, 0.25, "all")[1] == 0.25
    assert narrow(GENE, {"value": 1}, "all")[1] == 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"lo": 1}, "space.genes.weight.lo: unknown key (did you mean 'low'?)"),
        ({"low": "x"}, "space.genes.weight.low=x: give a number"),
        ({"low": 2.0}, "low 2.0 must be below high 2.0"),
        ({"default": 3}, "space.genes.weight.default=3.0: outside of 0.0 to 2.0"),
        ("half", "space.genes.weight=half: give a number"),
        (None, "space.genes.weight=null: give a number"),
        ({"values": [1]}, "space.genes.weight: list at least two values, without low and high"),
        ({"values": [0, 1], "low": 0}, "space.genes.weight: list at least two values, without low and high"),
        ({"values": [0, 1], "default": 0.5}, "space.genes.weight.default=0.5: not one of its values"),
    ],
)
def test_a_wrong_override_is_one_line(override: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        narrow(GENE, override, "all")
    assert message in str(caught.value)


def test_a_list_of_values_divides_the_axis_into_cells() -> None:
    gene, fixed, _ = narrow(GENE, {"values": [1, 0, -0.5]}, "all")
    assert fixed is None and gene.values == (-0.5, 0.0, 1.0) and gene.default == 0.0 and not gene.slope
    own = Axes(gene, GROUP, Schedule("all", 1, 8), (0, 1, 2, 3), simplex=False, start=0)
    assert own.decode(np.array([0.0, 0.34, 0.99, 1.0])).tolist() == [[-0.5, 0.0, 1.0, 1.0]]
    encoded = own.encode([1.0, -0.5, 0.0, 0.0])
    assert encoded is not None and own.decode(encoded).tolist() == [[1.0, -0.5, 0.0, 0.0]]
    assert own.encode(0.5) is None
    assert own.decode(own.nearest(np.array([[0.9, 0.2, -0.4, 7.0]]))).tolist() == [[1.0, 0.0, -0.5, 1.0]]
