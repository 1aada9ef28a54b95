"""Gradients, filters, and which level of a recipe wins."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.parity.families import Family
from tests.parity.recipes import entry, recipe, slerp, weighted

pytestmark = pytest.mark.parity

LLAMA_FILTERS: list[Any] = [
    {"filter": "model.layers.2.self_attn.q_proj.weight", "value": -0.4},
    {"filter": "self_attn", "value": [0.1, 0.9, 0.4]},
    {"filter": "mlp", "value": 0.7},
    {"filter": "embed_tokens", "value": 0.2},
    {"filter": "lm_head", "value": 0.35},
    {"value": [0.5, 0.8]},
]
GPT2_FILTERS: list[Any] = [
    {"filter": "transformer.h.1.attn.c_attn.weight", "value": -0.4},
    {"filter": "wte", "value": 0.2},
    {"filter": "attn", "value": [0.1, 0.9]},
    {"filter": "mlp.c_fc.bias", "value": 0.7},
    {"filter": "ln_f", "value": 0.35},
    {"value": [0.5, 0.8]},
]
T5_FILTERS: list[Any] = [
    {"filter": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "value": -0.4},
    {"filter": "shared", "value": 0.2},
    {"filter": "EncDecAttention", "value": [0.1, 0.9]},
    {"filter": "SelfAttention", "value": [0.6, 0.3]},
    {"filter": "wi_0", "value": 0.7},
    {"filter": "encoder.final_layer_norm", "value": 0.35},
    {"value": [0.5, 0.8]},
]
FILTERS = {"llama-deep": LLAMA_FILTERS, "gpt2": GPT2_FILTERS, "t5": T5_FILTERS}
Families = Callable[[str], Family]
Check = Callable[..., None]


@pytest.mark.parametrize("architecture", FILTERS)
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_filters_with_gradients_in_a_weight(architecture: str, method: str, family: Families, check: Check) -> None:
    members = family(architecture)
    entries = [entry(members.experts[0], weight=FILTERS[architecture]), entry(members.experts[1], weight=0.6)]
    base = None if method == "linear" else members.base
    check(recipe(method, base, entries, normalize=False))


@pytest.mark.parametrize("architecture", FILTERS)
def test_filters_with_gradients_in_t(architecture: str, family: Families, check: Check) -> None:
    members = family(architecture)
    check(slerp(members, members.far, FILTERS[architecture]))


def test_a_published_slerp_recipe(family: Families, check: Check) -> None:
    members = family("llama-deep")
    t = [
        {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
        {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
        {"value": 0.5},
    ]
    check(slerp(members, members.far, t))


@pytest.mark.parametrize(
    "gradient", [[0.4], [0.1, 0.9], [0.1, 0.9, 0.3], [0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.2, 0.9, 0.1, 1.0]]
)
def test_gradients_of_any_length(gradient: list[float], family: Families, check: Check) -> None:
    members = family("llama-deep")
    check(weighted("task_arithmetic", members, gradient, gradient[::-1]))
    check(slerp(members, members.far, gradient))


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "llama-deep"])
def test_gradients_of_density_and_lambda(architecture: str, family: Families, check: Check) -> None:
    members = family(architecture)
    entries = [
        entry(members.experts[0], weight=[0.2, 0.8], density=[0.1, 0.9]),
        entry(members.experts[1], weight=0.5, density=[{"filter": "norm", "value": 1}, {"value": 0.3}]),
    ]
    check(recipe("ties", members.base, entries, lambda_=[0.5, 1.5]))


def test_filtered_and_graded_switches(family: Families, check: Check) -> None:
    """A list of switches is not interpolated: it holds on the last layer only."""
    members = family("llama-deep")
    filtered = [{"filter": "mlp", "value": True}, {"value": False}]
    for normalize in (filtered, [False, True], [True, False, True]):
        check(weighted("task_arithmetic", members, 0.3, 0.2, normalize=normalize))
        check(weighted("ties", members, 0.3, 0.2, density=0.5, normalize=normalize))


def test_the_models_weight_wins_over_the_recipes(family: Families, check: Check) -> None:
    members = family("llama")
    first, second = members.experts[:2]
    partial = [{"filter": "mlp", "value": 0.2}]
    check(recipe("task_arithmetic", members.base, [entry(first), entry(second, weight=0.1)], weight=0.7))
    # Where no filter matches, the next level speaks.
    check(recipe("task_arithmetic", members.base, [entry(first, weight=partial), entry(second)], weight=0.7))


def test_every_way_to_write_a_filter(family: Families, check: Check) -> None:
    members = family("llama")
    ways: list[Any] = [
        {"value": 0.4},
        {"filter": "mlp", "value": [0.2, 0.4]},
        [{"filter": "mlp", "value": 0.4}, {"filter": "*", "value": 0.3}],
        [{"filter": None, "value": 0.6}, {"filter": "mlp", "value": 0.4}],
    ]
    for way in ways:
        check(recipe("task_arithmetic", members.base, [entry(members.experts[0], weight=way)], weight=0.9))


def test_numbers_that_yaml_reads_as_text(family: Families, check: Check) -> None:
    """YAML 1.1 takes 5e-1 for a string; mergekit takes it for the number that it is."""
    members = family("llama")
    text = yaml.safe_dump(weighted("task_arithmetic", members, 0.25, [0.5, 0.125]), sort_keys=False)
    replaced = text.replace("0.25", "25e-2").replace("0.5", "5e-1")
    assert replaced != text
    check(replaced)


def test_an_evomerge_block_and_unknown_notes_in_it(family: Families, check: Check) -> None:
    check(weighted("ties", family("llama"), 0.5, 0.5, density=0.4) | {"evomerge": {"schema": 1, "seed": 3}})
