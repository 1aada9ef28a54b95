"""The slices form: cut, stacked, shifted."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.parity.compare import config
from tests.parity.families import Family
from tests.parity.recipes import Recipe, entry, piece, sliced

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
Check = Callable[[Recipe], None]


@pytest.fixture
def deep(family: Families) -> Family:
    return family("llama-deep")


def cut(members: Family, method: str, at: int) -> Recipe:
    """Two slices that cover the model, with parameters at every level."""
    base, (first, second, _) = members.base, members.experts
    return sliced(
        method,
        base,
        [
            piece(0, at, entry(base), entry(first, weight=[0.1, 0.7]), entry(second), weight=0.3),
            piece(at, 4, entry(base), entry(first, weight=[0.2, 0.9]), entry(second), lambda_=0.5),
        ],
        weight=0.4,
        density=0.5,
        lambda_=1.3,
    )


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_two_slices_cover_the_model(method: str, at: int, deep: Family, check: Check) -> None:
    """A slice of one layer takes the last element of a gradient."""
    check(cut(deep, method, at))


def test_linear_slices(deep: Family, check: Check) -> None:
    first, second, third = deep.experts
    pieces = [
        piece(0, 2, entry(first, weight=0.7), entry(second, weight=[0.1, 0.4])),
        piece(2, 4, entry(second, weight=0.2), entry(third, weight=0.6), normalize=False),
    ]
    check(sliced("linear", None, pieces))
    check(sliced("linear", deep.base, pieces))


def test_slerp_slices(deep: Family, check: Check) -> None:
    pair = (entry(deep.base), entry(deep.far))
    pieces = [piece(0, 3, *pair, t=[0.1, 0.8]), piece(3, 4, *pair)]
    check(sliced("slerp", deep.base, pieces, t=[{"filter": "mlp", "value": 0.3}, {"value": 0.6}]))


def test_a_base_per_slice(deep: Family, check: Check) -> None:
    first, second, _ = deep.experts
    pair = (entry(first), entry(second))
    check(sliced("slerp", first, [piece(0, 2, *pair), piece(2, 4, *pair) | {"base_model": second}], t=0.2))
    pair = (entry(first, weight=0.5), entry(second, weight=0.25))
    check(sliced("task_arithmetic", first, [piece(0, 2, *pair), piece(2, 4, *pair) | {"base_model": second}]))


def stacked(members: Family, method: str, **parameters: object) -> Recipe:
    """Six layers out of four: layers 1 and 2 appear twice."""
    pair = (entry(members.base), entry(members.experts[0]))
    return sliced(method, members.base, [piece(0, 3, *pair), piece(1, 4, *pair)], **parameters)


FILTERED = [
    {"filter": "layers.1.", "value": 0.1},
    {"filter": "layers.4.", "value": 0.4},
    {"value": [0.6, 0.9]},
]


def test_stacked_layers_filter_a_models_weight_by_its_own_layer(deep: Family, check: Check) -> None:
    check(stacked(deep, "task_arithmetic", weight=FILTERED))


def test_stacked_layers_filter_shared_settings_by_the_output_layer(deep: Family, check: Check) -> None:
    check(stacked(deep, "task_arithmetic", weight=0.8, lambda_=FILTERED))
    check(stacked(deep, "slerp", t=FILTERED))


def test_stacked_ties_and_a_frankenmerge(deep: Family, check: Check) -> None:
    check(stacked(deep, "ties", weight=0.8, density=[0.2, 0.7]))
    first, second, _ = deep.experts
    check(sliced("linear", None, [piece(0, 3, entry(first, weight=1)), piece(1, 4, entry(second, weight=1))]))


def test_layers_can_be_dropped_and_shifted(deep: Family, check: Check) -> None:
    pair = (entry(deep.base, weight=0.5), entry(deep.experts[0], weight=0.5))
    check(sliced("linear", deep.base, [piece(0, 1, *pair), piece(3, 4, *pair)]))
    shifted = {"sources": [entry(deep.base) | {"layer_range": [0, 2]}]}
    shifted["sources"].append(entry(deep.experts[0], weight=0.7) | {"layer_range": [2, 4]})
    check(sliced("task_arithmetic", deep.base, [shifted]))


def test_slices_of_gpt2(family: Families, check: Check) -> None:
    members = family("gpt2")
    pair = (entry(members.base), entry(members.experts[0], weight=[0.3, 0.8]))
    pieces = [piece(first, last, *pair) for first, last in ((0, 2), (0, 2), (1, 2))]
    check(sliced("task_arithmetic", members.base, pieces))


def test_a_stacked_checkpoint_loads_and_runs(deep: Family, ours: Callable[[Recipe], Path]) -> None:
    folder = ours(stacked(deep, "task_arithmetic", weight=0.5))
    assert config(folder)["num_hidden_layers"] == 6
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
