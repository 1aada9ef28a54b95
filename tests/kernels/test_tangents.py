"""Derivatives of merged tensors: against differences of the passes themselves, for every form of coefficients."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from evomerge.kernels.coefficients import Coefficients, Consensus, LinComb, LowRank, PerRow
from evomerge.kernels.factors import Factors
from evomerge.kernels.sources import Sources, Update
from evomerge.kernels.tangents import dense_derivatives, is_zero, low_rank_tangents, same_form, tangent
from evomerge.kernels.voting import Keep, Trim, vote
from tests.passes import merged

ROWS, COLUMNS, WIDTH = 7, 5, 0.25


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(rank: int, seed: int) -> Factors:
    return Factors(random(ROWS, rank, seed=seed), random(rank, COLUMNS, seed=seed + 50), 0.7)


def sources(*updates: Update, banks: bool = False) -> Sources:
    found = Sources("w", random(ROWS, COLUMNS, seed=0), updates)
    names = {"bank.direction.0": (ROWS, COLUMNS), "bank.up": (ROWS, 3), "bank.down": (2, COLUMNS)} if banks else {}
    found.set_prepared({name: random(*shape, seed=7) for name, shape in names.items()})
    return found


DENSE = (random(ROWS, COLUMNS, seed=1), random(ROWS, COLUMNS, seed=2))
ADAPTERS = (factors(2, 1), None, factors(3, 2))
CORES = np.random.default_rng(0).normal(size=(2, 3, 2))


def per_row(seed: int) -> PerRow:
    return PerRow(tuple(random(ROWS, seed=seed).tolist()))


def trimmed(*weights: float) -> Consensus:
    masks = [Trim(0.2), Keep()]
    return vote(masks, weights, [1.3, 0.8], elect=True, normalize=True, lam=0.6, sign="unweighted")


# name → sources, and the coefficients on the two sides of a point, where what is between them is linear
CASES: dict[str, tuple[Sources, Coefficients, Coefficients]] = {
    "sum": (sources(*DENSE), LinComb(0.1, (0.5, 0.2)), LinComb(0.4, (0.1, -0.3))),
    "sum with a direction": (
        sources(*DENSE, banks=True),
        LinComb(0.3, (0.5, 0.2), (0.9,)),
        LinComb(0.4, (0.1, 0.5), (0.1,)),
    ),
    "sum by rows": (
        sources(*DENSE),
        LinComb(per_row(3), (per_row(4), 0.2)),
        LinComb(per_row(5), (0.5, per_row(6))),
    ),
    "adapters": (sources(*ADAPTERS), LinComb(0.3, (0.5, 0.1, 0.1)), LinComb(0.6, (0.1, 0.2, 0.1))),
    "adapters and a base that moves": (
        sources(*ADAPTERS),
        LinComb(0.9, (0.5, 0.1, 0.1)),
        LinComb(0.2, (0.1, 0.2, 0.1)),
    ),
    "low rank": (sources(*DENSE, banks=True), LowRank(CORES[0]), LowRank(CORES[1])),
    "vote without election": (
        sources(*DENSE),
        vote([Keep(), Keep()], [0.5, 0.2], [1.0, 2.0], elect=False, normalize=False, lam=1.0),
        vote([Keep(), Keep()], [0.1, 0.9], [1.0, 2.0], elect=False, normalize=False, lam=1.0),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def difference(case: tuple[Sources, Coefficients, Coefficients]) -> torch.Tensor:
    inputs, plus, minus = case
    return (merged(plus, inputs).double() - merged(minus, inputs).double()) / WIDTH


@every_case
def test_the_derivative_is_the_inner_product_with_the_difference_of_the_merges(name: str) -> None:
    inputs, plus, minus = CASES[name]
    gradient = random(ROWS, COLUMNS, seed=9)
    wanted = float((gradient.double() * difference(CASES[name])).sum())
    found = dense_derivatives(gradient, minus, [tangent(plus, minus, WIDTH)], inputs)
    assert found.tolist() == pytest.approx([wanted], rel=1e-4)


@pytest.mark.parametrize("name", ["adapters", "low rank"])
def test_low_rank_tangents_need_no_gradient_of_the_weight(name: str) -> None:
    inputs, plus, minus = CASES[name]
    x, outputs = random(4, 6, COLUMNS, seed=10), random(4, 6, ROWS, seed=11)
    found = low_rank_tangents([tangent(plus, minus, WIDTH), tangent(minus, plus, WIDTH)], inputs)
    assert found is not None
    gradient = outputs.reshape(-1, ROWS).T.double() @ x.reshape(-1, COLUMNS).double()
    wanted = float((gradient * difference(CASES[name])).sum())
    assert found.contract(found.project(x), outputs).tolist() == pytest.approx([wanted, -wanted], rel=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("adapters", "low rank")])
def test_other_tangents_are_not_of_low_rank(name: str) -> None:
    inputs, plus, minus = CASES[name]
    assert low_rank_tangents([tangent(plus, minus, WIDTH)], inputs) is None


def test_masks_and_signs_are_held_fixed() -> None:
    inputs, at = sources(*DENSE), trimmed(0.5, 0.4)
    step = 1e-3
    plus, minus = trimmed(0.5 + step, 0.4), trimmed(0.5 - step, 0.4)
    gradient = random(ROWS, COLUMNS, seed=9)
    wanted = (merged(plus, inputs).double() - merged(minus, inputs).double()) / (2 * step)
    found = dense_derivatives(gradient, at, [tangent(plus, minus, 2 * step)], inputs)
    assert found.tolist() == pytest.approx([float((gradient.double() * wanted).sum())], rel=1e-3)


@pytest.mark.parametrize(
    "other",
    [LowRank(CORES[0]), trimmed(0.1, 0.2), LinComb(1.0, (0.0, 0.0), (1.0,))],
    ids=["low rank", "consensus", "another number of directions"],
)
def test_another_form_of_coefficients_has_no_difference(other: Coefficients) -> None:
    assert not same_form(LinComb(1.0, (0.0, 0.0)), other)
    assert same_form(other, other)


ZERO: dict[str, Callable[[], tuple[Coefficients, Sources]]] = {
    "experts equal to the base": lambda: (LinComb(-0.5, (0.5, 0.0)), sources(None, DENSE[0])),
    "an empty core": lambda: (LowRank(np.zeros((3, 2))), sources(*DENSE, banks=True)),
    "numbers that do not move": lambda: (tangent(trimmed(1.0, 2.0), trimmed(1.0, 2.0), 1.0), sources(*DENSE)),
}


@pytest.mark.parametrize("name", ZERO)
def test_a_tangent_that_moves_nothing_is_zero(name: str) -> None:
    assert is_zero(*ZERO[name]())


def test_a_tangent_that_moves_the_base_is_not_zero() -> None:
    assert not is_zero(LinComb(0.5, (0.5,)), sources(None))
