"""Stacked layers against mergekit: copies with scales, repeats, reversed blocks, and merges of different ranges."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.parity.families import Family
from tests.parity.recipes import Recipe, entry, sliced

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
Check = Callable[[Recipe], None]
OUTPUTS = {"llama-deep": ("o_proj", "down_proj"), "llama-tied": ("o_proj", "down_proj"), "gpt2": ("c_proj",)}


def source(path: str, first: int, last: int, **parameters: Any) -> Recipe:
    return entry(path, **parameters) | {"layer_range": [first, last]}


def scale(draw: random.Random, outputs: tuple[str, ...]) -> Any:
    """One of mergekit's forms: a number, a gradient, or filters."""
    value = round(draw.uniform(0.2, 1.6), 3)
    filtered = [{"filter": text, "value": value} for text in outputs]
    return draw.choice([value, [value, 1.0], [*filtered, {"value": 1.0}], filtered, 0.0])


def copied(draw: random.Random, members: Family, outputs: tuple[str, ...]) -> Recipe:
    """Two to four blocks of the base and the experts in any order, some scaled."""
    pieces = []
    for _ in range(draw.randint(2, 4)):
        first = draw.randrange(members.layers)
        last = draw.randint(first + 1, members.layers)
        parameters = {"scale": scale(draw, outputs)} if draw.random() < 0.6 else {}
        model = draw.choice((members.base, *members.experts))
        pieces.append({"sources": [source(model, first, last, **parameters)]})
    return sliced("passthrough", draw.choice([None, members.base]), pieces)


def merged(draw: random.Random, members: Family, method: str) -> Recipe:
    """Three blocks of one length, each from other layers of two models."""
    length, pieces = draw.randint(1, 2), []
    for _ in range(3):
        starts = [draw.randint(0, members.layers - length) for _ in range(2)]
        own = {} if method == "slerp" else {"weight": round(draw.random(), 3)}
        pair = [source(members.base, starts[0], starts[0] + length)]
        pair.append(source(members.experts[0], starts[1], starts[1] + length, **own))
        if method == "linear":
            pair[0]["parameters"] = {"weight": round(draw.random(), 3)}
        pieces.append({"sources": pair})
    return sliced(method, members.base, pieces, **({"t": [0.2, 0.7]} if method == "slerp" else {}))


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("seed", range(5))
def test_copied_blocks(seed: int, name: str, family: Families, check: Check) -> None:
    check(copied(random.Random(f"{seed} {name}"), family(name), OUTPUTS[name]))


@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "task_arithmetic"])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_different_ranges(seed: int, method: str, family: Families, check: Check) -> None:
    check(merged(random.Random(f"{seed} {method}"), family("llama-deep"), method))


def test_a_whole_model_is_scaled(family: Families, check: Check) -> None:
    members = family("llama-deep")
    rules = [{"filter": "norm", "value": 0.5}, {"filter": "layers.1.", "value": [0.3, 0.6]}]
    check({"merge_method": "passthrough", "dtype": "float32", "models": [entry(members.experts[1], scale=rules)]})
    every = {"sources": [source(members.experts[1], 0, 4)]}
    check(sliced("passthrough", None, [every, every], scale=0.7))
