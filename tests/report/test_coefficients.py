"""The matrices say what `evaluate` says, with equal neighbours joined."""

import pytest

from evomerge.recipes.recipe import ModelRef, Recipe, Slice, Source, evaluate, recipe_of_models
from evomerge.report.coefficients import SHARED, Block, blocks, constants

from .conftest import CONFIG, HOSTILE, recipe


@pytest.fixture
def found() -> list[Block]:
    return blocks(recipe(), 4, CONFIG)


def test_a_block_for_each_component_and_one_for_what_lies_outside(found: list[Block]) -> None:
    assert [block.component for block in found] == ["attention", "other layer tensors", "outside the layers"]
    assert {block.gene for block in found} == {"weight"}


def test_rows_bear_the_experiments_names_also_for_adapters(found: list[Block]) -> None:
    assert list(found[0].rows) == ["math", HOSTILE]


def test_equal_neighbours_are_one_column(found: list[Block]) -> None:
    assert found[0].columns == ("0–1", "2–3") and found[0].widths == (2, 2)
    assert found[0].rows["math"] == (0.125, -0.5)
    assert found[1].columns == ("0–3",) and found[1].rows["math"] == (0.25,)
    assert found[2].columns == ("embeddings + final norm",) and found[2].rows["math"] == (0.0,)


def test_what_is_the_same_everywhere_is_a_constant(found: list[Block]) -> None:
    assert constants(recipe()) == {"normalize": False, "density": 0.5}


def test_knots_are_interpolated_over_the_layers() -> None:
    setting = (0.0, 1.0, 0.5)
    sources = (Source(ModelRef("experts/math"), {"weight": setting}), Source(ModelRef("law"), {"weight": 0.5}))
    (block,) = blocks(recipe_of_models("ties", ModelRef("models/base"), sources, {}), 7, CONFIG)
    expected = [evaluate(setting, ("",), layer / 6) for layer in range(7)]
    assert block.component == "layers"
    assert block.rows["math"] == pytest.approx(expected)
    assert block.rows["law"] == (0.5,) * 7


def test_a_shared_gene_is_a_row_of_all_models_and_comes_last() -> None:
    sources = (Source(ModelRef("experts/math"), {"weight": (0.0, 1.0)}),)
    found = blocks(recipe_of_models("ties", ModelRef("models/base"), sources, {"lambda": (0.5, 0.7)}), 2, CONFIG)
    assert [(block.gene, dict(block.rows)) for block in found] == [
        ("weight", {"math": (0.0, 1.0)}),
        ("lambda", {SHARED: (0.5, 0.7)}),
    ]


def test_slices_follow_one_another() -> None:
    def part(first: int, last: int, weight: float) -> Slice:
        return Slice((Source(ModelRef("experts/math"), {"weight": weight}, (first, last)),))

    both = Recipe("ties", ModelRef("models/base"), (part(0, 2, 0.25), part(2, 3, 0.75)))
    (block,) = blocks(both, 3, CONFIG)
    assert block.columns == ("0–1", "2") and block.rows["math"] == (0.25, 0.75)


def test_without_the_number_of_layers_the_longest_gradient_tells_it() -> None:
    assert blocks(recipe(), None, CONFIG)[0].widths == (2, 2)
