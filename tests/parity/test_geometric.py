"""The methods that go by angles and lengths, and the two that swap single elements."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import CandidateError, ConfigError
from evomerge.merging.frozen import freeze
from evomerge.merging.materializer import Materializer
from evomerge.recipes import dump_recipe, parse_recipe
from tests.parity.compare import assert_equal
from tests.parity.families import BUILDERS, Family
from tests.parity.oracle import Oracle, OracleError
from tests.parity.recipes import Recipe, entry, piece, recipe, sliced, weighted
from tests.parity.spaces import decoded, opened

pytestmark = pytest.mark.parity

Case = Callable[[Family], Recipe]
Families = Callable[[str], Family]
Check = Callable[..., None]
THREE = (0.6, 0.3, 0.5)


def plain(method: str, family: Family, *weights: Any, **parameters: Any) -> Recipe:
    """A recipe without a base."""
    return recipe(method, None, weighted(method, family, *weights)["models"], **parameters)


def alike(method: str, family: Family, count: int, base: bool = True, **parameters: Any) -> Recipe:
    """The first experts, none of which has parameters of its own."""
    return recipe(method, family.base if base else None, [entry(e) for e in family.experts[:count]], **parameters)


def listed(method: str, family: Family, *weights: Any) -> Recipe:
    """The base is named and listed too."""
    found = weighted(method, family, *weights)
    return found | {"models": [entry(family.base, weight=0.9), *found["models"]]}


NUSLERP: dict[str, Case] = {
    "task vectors": lambda f: weighted("nuslerp", f, 0.3, 0.7),
    "models": lambda f: plain("nuslerp", f, 0.3, 0.7),
    "models far apart": lambda f: recipe("nuslerp", None, [entry(f.base, weight=0.4), entry(f.far, weight=0.6)]),
    "nearly parallel models": lambda f: recipe("nuslerp", None, [entry(f.base, weight=1), entry(f.twin, weight=1)]),
    "an expert that is the base": lambda f: weighted("nuslerp", f, 1.0, 0.0),
    "negative weight": lambda f: weighted("nuslerp", f, 0.9, -0.2),
    "weights that cancel": lambda f: weighted("nuslerp", f, 0.5, -0.5),
    "base listed": lambda f: listed("nuslerp", f, 0.3, 0.7),
    "rows of task vectors": lambda f: weighted("nuslerp", f, 0.3, 0.7, nuslerp_flatten=False),
    "rows of models": lambda f: plain("nuslerp", f, 0.3, 0.7, nuslerp_flatten=False),
    "columns of task vectors": lambda f: weighted("nuslerp", f, 0.3, 0.7, nuslerp_flatten=False, nuslerp_row_wise=True),
    "columns of models": lambda f: plain("nuslerp", f, 0.8, 0.7, nuslerp_flatten=False, nuslerp_row_wise=True),
    "row wise, but flat": lambda f: weighted("nuslerp", f, 0.3, 0.7, nuslerp_row_wise=True),
}
MULTISLERP: dict[str, Case] = {
    "task vectors": lambda f: weighted("multislerp", f, *THREE),
    "models": lambda f: plain("multislerp", f, *THREE),
    "plain weights": lambda f: weighted("multislerp", f, *THREE, normalize_weights=False),
    "plain weights of models": lambda f: plain("multislerp", f, *THREE, normalize_weights=False),
    "negative weight": lambda f: weighted("multislerp", f, 0.9, -0.2, 0.4),
    "one expert": lambda f: weighted("multislerp", f, 0.3),
    "one model": lambda f: plain("multislerp", f, 0.3),
    "a weight of zero": lambda f: weighted("multislerp", f, 0.9, 0.0, 0.4),
    "large eps": lambda f: weighted("multislerp", f, *THREE, eps=0.01),
    "base listed": lambda f: listed("multislerp", f, *THREE),
}
KARCHER: dict[str, Case] = {
    "models": lambda f: alike("karcher", f, 3, base=False),
    "two models": lambda f: alike("karcher", f, 2, base=False),
    "one model": lambda f: alike("karcher", f, 1, base=False),
    "a base, which counts": lambda f: alike("karcher", f, 3),
    "a base, listed": lambda f: recipe("karcher", f.base, [entry(f.base), entry(f.far), entry(f.experts[0])]),
    "models far apart": lambda f: recipe("karcher", f.base, [entry(f.far), entry(f.experts[1])]),
    "no step": lambda f: recipe("karcher", f.base, [entry(f.far), entry(f.experts[1])], max_iter=0),
    "one step": lambda f: recipe("karcher", f.base, [entry(f.far), entry(f.experts[1])], max_iter=1),
    "loose": lambda f: recipe("karcher", f.base, [entry(f.far), entry(f.experts[1])], tol=0.3),
}
MODEL_STOCK: dict[str, Case] = {
    "three experts": lambda f: alike("model_stock", f, 3),
    "two experts": lambda f: alike("model_stock", f, 2),
    "alike": lambda f: recipe("model_stock", f.far, [entry(f.base), entry(f.twin), entry(f.experts[0])]),
    "short task vectors": lambda f: recipe("model_stock", f.base, [entry(f.twin), entry(f.experts[2])]),
    "rows": lambda f: recipe("model_stock", f.far, [entry(f.base), entry(f.experts[0])], filter_wise=True),
    "rows of some": lambda f: recipe(
        "model_stock",
        f.far,
        [entry(f.base), entry(f.experts[0])],
        filter_wise=[{"filter": "mlp", "value": True}, {"value": False}],
    ),
}
NEARSWAP: dict[str, Case] = {
    f"t {t}": lambda f, t=t: alike("nearswap", f, 1, t=t) for t in (0.0, -0.1, 1e-8, 0.01, 0.1, 10.0)
}
FUSION: dict[str, Case] = {
    "an expert": lambda f: alike("arcee_fusion", f, 1),
    "an expert far away": lambda f: recipe("arcee_fusion", f.base, [entry(f.far)]),
    "a twin": lambda f: recipe("arcee_fusion", f.base, [entry(f.twin)]),
    "base listed": lambda f: recipe("arcee_fusion", f.base, [entry(f.base), entry(f.experts[1])]),
}
CASES = {
    f"{method}: {name}": case
    for method, cases in {
        "nuslerp": NUSLERP,
        "multislerp": MULTISLERP,
        "karcher": KARCHER,
        "model_stock": MODEL_STOCK,
        "nearswap": NEARSWAP,
        "arcee_fusion": FUSION,
    }.items()
    for name, case in cases.items()
}


# Where mergekit's own fp32 is further from its float64 than the tolerance: fp32 rounds the divergences of Arcee Fusion
# away, decides by rounding whether a Karcher mean takes one more step, and takes short lines for opposite or not.
DOUBLE = ("arcee_fusion", "karcher", "nuslerp: rows", "nuslerp: columns")


def in_double(merge: Recipe) -> Recipe:
    """Computed in float64 by mergekit."""
    return merge | {"dtype": "float64", "out_dtype": "float32"}


@pytest.mark.parametrize("architecture", [name for name in BUILDERS if name != "llama-deep"])
@pytest.mark.parametrize("case", CASES)
def test_scalar_parameters(architecture: str, case: str, family: Families, check: Check) -> None:
    merge = CASES[case](family(architecture))
    check(in_double(merge) if case.startswith(DOUBLE) else merge)


@pytest.mark.parametrize("architecture", ["llama-deep", "gpt2", "t5"])
@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
@pytest.mark.parametrize("based", [True, False])
def test_gradients_and_filters_in_a_weight(
    architecture: str, method: str, based: bool, family: Families, check: Check
) -> None:
    members = family(architecture)
    weight = [{"filter": "attn", "value": [0.1, 0.9]}, {"filter": "mlp", "value": 0.7}, {"value": [0.5, 0.8]}]
    entries = [entry(members.experts[0], weight=weight), entry(members.experts[1], weight=[0.6, 0.2])]
    check(recipe(method, members.base if based else None, entries))


@pytest.mark.parametrize("architecture", ["llama-deep", "gpt2", "t5"])
def test_gradients_and_filters_in_t(architecture: str, family: Families, check: Check) -> None:
    t = [{"filter": "mlp", "value": [0.0, 0.3]}, {"filter": "embed", "value": 0.02}, {"value": [0.1, 0.01]}]
    check(alike("nearswap", family(architecture), 1, t=t))


def test_filtered_switches(family: Families, check: Check) -> None:
    members = family("llama-deep")
    some = [{"filter": "mlp", "value": False}, {"value": True}]
    check(weighted("nuslerp", members, 0.3, 0.7, nuslerp_flatten=some, nuslerp_row_wise=True))
    check(weighted("multislerp", members, *THREE, normalize_weights=some))


@pytest.mark.parametrize("method", ["nuslerp", "multislerp", "karcher", "model_stock"])
def test_slices(method: str, family: Families, check: Check) -> None:
    members = family("llama-deep")
    own = {"weight": [0.3, 0.6]} if method in ("nuslerp", "multislerp") else {}
    base = entry(members.base, **({"weight": 1.0} if own else {}))
    pair = [entry(expert, **own) for expert in members.experts[:2]]
    check(sliced(method, members.base, [piece(0, 3, base, *pair), piece(1, 4, base, *pair)]))


@pytest.mark.parametrize("method", ["nuslerp", "multislerp", "nearswap"])
@pytest.mark.parametrize("schedule", ["all", "each", {"knots": 2}], ids=str)
@pytest.mark.parametrize("architecture", ["llama-deep", "llama-tied", "gpt2", "t5"])
def test_decoded_recipes(
    method: str, schedule: Any, architecture: str, family: Families, oracle: Oracle, ours: Callable[[str], Path]
) -> None:
    members = family(architecture)
    experts = list(members.experts[: {"nuslerp": 2, "multislerp": 3, "nearswap": 1}[method]])
    models = opened(members.base, experts)
    text = dump_recipe(decoded(models, method, schedule=schedule, components=("attention", "mlp")))
    assert_equal(ours(text), oracle.merge(text))


@pytest.mark.parametrize("method", ["karcher", "geometric_median", "model_stock"])
@pytest.mark.parametrize("architecture", ["llama-deep", "llama-tied", "gpt2", "t5"])
def test_frozen_recipes(
    method: str, architecture: str, family: Families, oracle: Oracle, ours: Callable[[str], Path]
) -> None:
    """What mergekit lacks of these methods is plain weights in the end, which it reads."""
    members = family(architecture)
    half = [{"filter": "mlp", "value": 0.5}, {"value": [0.3, 1.2]}]
    if method == "karcher":
        given = weighted(method, members, half, *THREE[1:], base_model_weight=0.25)
    elif method == "model_stock":
        given = alike(method, members, 3, lambda_=half)
    else:
        given = weighted(method, members, [0.35, 0.5], *THREE[1:], lambda_=half)
    merge = parse_recipe(given | {"evomerge": {}})  # without the block it would be mergekit's own
    text = dump_recipe(freeze(merge, Materializer(opened(members.base, list(members.experts)))))
    assert "merge_method: task_arithmetic" in text or "merge_method: linear" in text
    theirs = oracle.merge(text)
    assert_equal(ours(text), theirs)
    assert_equal(ours(dump_recipe(merge)), theirs)


def test_mergekit_counts_no_weights_in_a_karcher_mean(
    family: Families, oracle: Oracle, ours: Callable[[Recipe], Path]
) -> None:
    members = family("llama")
    assert_equal(oracle.merge(weighted("karcher", members, 0.9, 0.1)), ours(alike("karcher", members, 2)))


def test_tensors_that_no_expert_touched(family: Families, oracle: Oracle, ours: Callable[[Recipe], Path]) -> None:
    """mergekit gives up three models with one zero tensor; the base is what they all agree on."""
    members = family("llama")
    merge = recipe("multislerp", members.base, [entry(e, weight=1.0) for e in (*members.experts, members.far)])
    twice = merge | {"base_model": members.far, "models": merge["models"][:3]}
    assert_equal(ours(twice), oracle.merge(twice))
    zero = recipe(
        "multislerp", None, [entry(e, weight=w) for e, w in zip(members.experts, (1.0, -1.0, 0.0), strict=True)]
    )
    assert oracle.merge(zero)  # NaN
    with pytest.raises(CandidateError, match="weights sum to 0"):
        ours(zero)


@pytest.mark.parametrize(
    ("method", "count"), [("nuslerp", 1), ("nuslerp", 3), ("model_stock", 1), ("nearswap", 2), ("arcee_fusion", 2)]
)
def test_both_refuse_the_wrong_number_of_experts(
    method: str, count: int, family: Families, oracle: Oracle, ours: Callable[[Recipe], Path]
) -> None:
    parameters: dict[str, float] = {"t": 0.1} if method == "nearswap" else {}
    merge = alike(method, family("llama"), count, **parameters)
    with pytest.raises(OracleError):
        oracle.merge(merge)
    with pytest.raises(ConfigError):
        ours(merge)
