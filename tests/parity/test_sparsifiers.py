"""Breadcrumbs, SCE and RAM tensor by tensor; DELLA by the distribution of what it adds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.parity.compare import assert_equal, tensors
from tests.parity.families import BUILDERS, Family
from tests.parity.oracle import Oracle, OracleError
from tests.parity.recipes import Recipe, entry, piece, recipe, sliced, weighted
from tests.parity.test_dare import Families, assert_same_mean, moments, recipe_of, seeded, shifts, task_vector

pytestmark = pytest.mark.parity

Case = Callable[[Family], Recipe]
Check = Callable[..., None]
Merge = Callable[[Recipe], Path]
THREE = (0.6, 0.3, 0.5)
ARCHITECTURES = [name for name in BUILDERS if name != "llama-deep"]


def crumbs(method: str, f: Family, *windows: tuple[Any, Any], weights: tuple[Any, ...] = THREE, **rest: Any) -> Recipe:
    """A density and a gamma per expert."""
    rows = zip(f.experts, weights, windows, strict=False)
    entries = [entry(path, weight=w, density=density, gamma=gamma) for path, w, (density, gamma) in rows]
    return recipe(method, f.base, entries, **rest)


def plain(method: str, family: Family, count: int = 3, **parameters: Any) -> Recipe:
    """A method without weights."""
    return recipe(method, family.base, [entry(path) for path in family.experts[:count]], **parameters)


BREADCRUMBS: dict[str, Callable[[str, Family], Recipe]] = {
    "defaults": lambda m, f: weighted(m, f, *THREE),
    "textbook": lambda m, f: crumbs(m, f, *[(0.9, 0.01)] * 3),
    "one expert": lambda m, f: crumbs(m, f, (0.6, 0.1)),
    "no outliers": lambda m, f: crumbs(m, f, *[(0.4, 0.0)] * 3),
    "many outliers": lambda m, f: crumbs(m, f, (0.2, 0.3), (0.5, 0.5), (0.1, 0.9)),
    "more than everything": lambda m, f: crumbs(m, f, (0.95, 0.1), (0.999, 0.5), (0.7, 1.0)),
    "hardly anything": lambda m, f: crumbs(m, f, (0.01, 0.01), (0.06, 0.0), (0.0, 0.1)),
    "nothing": lambda m, f: crumbs(m, f, (0.0, 0.0), (-0.5, 0.1), (0.0, 1.0)),
    "off the grid": lambda m, f: crumbs(m, f, (0.12345, 0.0123), (0.77777, 0.03333), (1.2, 0.5)),
    "gamma below zero": lambda m, f: crumbs(m, f, (0.5, -0.2), (0.9, -0.01), (0.3, -2.0)),
    "rescaled": lambda m, f: crumbs(m, f, (0.3, 0.05), (0.8, 0.01), (0.5, 0.0), rescale=True),
    "rescaled, lambda": lambda m, f: crumbs(m, f, *[(0.2, 0.1)] * 3, rescale=True, lambda_=0.4),
    "normalised": lambda m, f: crumbs(m, f, *[(0.5, 0.05)] * 3, normalize=True),
    "negative weight": lambda m, f: crumbs(m, f, *[(0.5, 0.05)] * 3, weights=(0.9, -0.35, 0.2), lambda_=1.3),
    "negative, normalised": lambda m, f: crumbs(m, f, *[(0.5, 0.05)] * 3, weights=(0.9, -0.35, 0.2), normalize=True),
    "weights that cancel": lambda m, f: crumbs(m, f, *[(0.5, 0.05)] * 2, weights=(0.5, -0.5), normalize=True),
    "int8 mask": lambda m, f: crumbs(m, f, *[(0.5, 0.05)] * 3, int8_mask=True),
    "opposite experts": lambda m, f: recipe(
        m, f.far, [entry(f.base), entry(f.mirror)], weight=0.5, density=0.6, gamma=0.1
    ),
}
WEIGHTLESS: dict[str, Case] = {
    **{f"sce, {share}": lambda f, share=share: plain("sce", f, select_topk=share) for share in (0.0, 0.1, 0.29, 0.7)},
    "sce, off the grid": lambda f: plain("sce", f, select_topk=0.123456),
    "sce, everything": lambda f: plain("sce", f),
    "sce, below nothing": lambda f: plain("sce", f, select_topk=-0.5),
    "sce, two": lambda f: plain("sce", f, 2, select_topk=0.5),
    "sce, one": lambda f: plain("sce", f, 1),
    "sce, one of one": lambda f: plain("sce", f, 1, select_topk=0.9),
    "sce, int8 mask": lambda f: plain("sce", f, select_topk=0.4, int8_mask=True),
    "sce, opposite": lambda f: recipe("sce", f.far, [entry(f.base), entry(f.mirror)], select_topk=0.5),
    "sce, base listed": lambda f: recipe("sce", f.base, [entry(f.base), *map(entry, f.experts)], select_topk=0.5),
    **{f"ram, {e}": lambda f, e=e: plain("ram", f, epsilon=e) for e in (0.0, 1e-3, 0.02, -0.1, 1e9)},
    "ram, defaults": lambda f: plain("ram", f),
    "ram, one": lambda f: plain("ram", f, 1, epsilon=0.01),
    "ramplus, defaults": lambda f: plain("ramplus_tl", f),
    **{
        f"ramplus, {e}": lambda f, e=e: plain("ramplus_tl", f, epsilon=e, r=0.5, alpha=1.0)
        for e in (1e-6, 9e-4, 0.02, 0.03, 0.1, 2.0)
    },
    "ramplus, two": lambda f: plain("ramplus_tl", f, 2, epsilon=0.02, r=0.3, alpha=0.4),
    "ramplus, alpha below zero": lambda f: plain("ramplus_tl", f, epsilon=0.02, r=0.3, alpha=-0.4),
    "ramplus, one": lambda f: plain("ramplus_tl", f, 1, r=0.3),
}
CASES: dict[str, Case] = WEIGHTLESS | {
    f"{method}: {name}": lambda f, case=case, method=method: case(method, f)
    for method in ("breadcrumbs", "breadcrumbs_ties")
    for name, case in BREADCRUMBS.items()
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", CASES)
def test_scalar_parameters(architecture: str, case: str, family: Families, check: Check) -> None:
    check(CASES[case](family(architecture)))


def test_the_families_differ_where_these_cases_look(family: Families) -> None:
    """The thresholds of RAM's cases are among the magnitudes of the deltas, or those cases would prove nothing."""
    members = family("llama")
    base, expert = (tensors(Path(path)) for path in (members.base, members.experts[0]))
    name = next(name for name in base if "q_proj" in name)
    shares = [((expert[name] - base[name]).abs() > e).double().mean().item() for e in (1e-3, 0.02, 0.03, 0.1)]
    assert any(0.05 < share < 0.95 for share in shares), shares


FILTERS = [{"filter": "mlp", "value": [0.9, 0.3]}, {"filter": "embed", "value": 0.5}, {"value": [0.2, 0.6, 0.4]}]
SMALL = [{"filter": "mlp", "value": [0.0, 0.1]}, {"value": [0.02, 0.05]}]


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_gradients_and_filters(method: str, family: Families, check: Check) -> None:
    members = family("llama-deep")
    check(crumbs(method, members, (FILTERS, SMALL), ([0.9, 0.1], 0.03), weights=(0.7, FILTERS), rescale=True))
    check(recipe(method, members.base, [entry(e, weight=0.4) for e in members.experts], density=FILTERS, gamma=SMALL))


@pytest.mark.parametrize("method", ["sce", "ram", "ramplus_tl"])
def test_gradients_and_filters_of_shared_parameters(method: str, family: Families, check: Check) -> None:
    members = family("llama-deep")
    key, value = ("select_topk", FILTERS) if method == "sce" else ("epsilon", SMALL)
    check(plain(method, members, **{key: value}))


@pytest.mark.parametrize("method", ["sce", "ram", "ramplus_tl"])
def test_slices(method: str, family: Families, check: Check) -> None:
    members = family("llama-deep")
    sources = [entry(path) for path in (members.base, *members.experts)]
    key = "select_topk" if method == "sce" else "epsilon"
    first, second = piece(0, 2, *sources, **{key: 0.03}), piece(1, 4, *sources, **{key: 0.3})
    check(sliced(method, members.base, [first, second]))


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize("parameters", [{"density": 1.0}, {"density": 1.0, "normalize": False, "lambda_": 0.7}, {}])
def test_della_that_keeps_everything(method: str, parameters: dict[str, Any], family: Families, check: Check) -> None:
    check(weighted(method, family("llama"), 0.6, -0.3, 0.5, **parameters))
    check(weighted(method, family("gpt2"), 0.6, 0.3, 0.5, **parameters))


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_that_keeps_nothing(method: str, family: Families, check: Check) -> None:
    check(weighted(method, family("llama"), 0.6, -0.3, 0.5, density=0.0))


@pytest.mark.parametrize(("density", "epsilon"), [(0.85, 0.15), (0.15, 0.15), (0.9, -0.2)])
def test_both_refuse_probabilities_outside(
    density: float, epsilon: float, family: Families, oracle: Oracle, ours: Merge
) -> None:
    merge = weighted("della", family("llama"), 0.6, 0.3, density=density, epsilon=epsilon)
    with pytest.raises(OracleError):
        oracle.merge(merge)
    with pytest.raises(Exception, match="density .* epsilon"):
        ours(merge)


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize("options", [{}, {"normalize": True, "lambda_": 1.3}, {"rescale": False}])
@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.45), (0.3, 0.1), (0.6, -0.3)])
def test_moments_of_della_equal_mergekits(
    method: str,
    options: dict[str, Any],
    density: float,
    epsilon: float,
    family: Families,
    oracle: Oracle,
    ours: Merge,
) -> None:
    """The share of the task vector that is added and its energy: both grow with what large elements are kept."""
    members = family("llama")
    base, weights = tensors(Path(members.base)), (0.6, 0.3, 0.5)
    direction = task_vector(members, base, *weights)
    merge = recipe_of(method, members, density, *weights, epsilon=epsilon, **options)
    mine = moments((shifts(ours(seeded(merge, seed)), base) for seed in range(16)), direction)
    theirs = moments((shifts(oracle.merge(merge, "--random-seed", str(seed)), base) for seed in range(16)), direction)
    for name in mine:
        assert_same_mean(mine[name], theirs[name], name)


def test_the_order_of_the_experts_is_the_recipes(family: Families, oracle: Oracle, ours: Merge) -> None:
    members = family("llama")
    forth = plain("sce", members, select_topk=0.5)
    back = forth | {"models": forth["models"][::-1]}
    assert_equal(ours(back), oracle.merge(forth))
