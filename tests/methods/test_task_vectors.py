"""Norms and thresholds that must not depend on order, threads or devices."""

import math

import pytest
import torch
from torch import Tensor

from evomerge.kernels import Drop, Keep, Sources, Trim
from evomerge.methods._task_vectors import TaskVectors, exact_l1


def spread(size: int, seed: int = 0) -> Tensor:
    """Values over six orders of magnitude, where the order of a plain sum shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * 10 ** (6 * torch.rand(size, generator=generator) - 3)


def state(deltas: list[Tensor], **options: str) -> TaskVectors:
    base = torch.zeros_like(deltas[0])
    return TaskVectors(Sources("w", base, deltas), options, seed=3)


def test_exact_l1_is_the_same_in_any_order() -> None:
    values = spread(50_001)
    wanted = exact_l1(values)
    for seed in range(5):
        order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(seed))
        assert exact_l1(values[order]) == wanted
    assert exact_l1(values.view(3, -1).T) == exact_l1(-values) == wanted


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_exact_l1_is_close_to_float64(scale: float) -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(1)) * scale
    assert exact_l1(values) == pytest.approx(values.double().abs().sum().item(), rel=1e-8)


def test_exact_l1_of_edges() -> None:
    assert exact_l1(torch.empty(0)) == 0.0 == exact_l1(torch.zeros(4))
    assert exact_l1(torch.tensor([3.0])) == 3.0
    assert math.isinf(exact_l1(torch.tensor([1.0, -math.inf])))
    assert math.isnan(exact_l1(torch.tensor([1.0, math.nan])))


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.77, 0.999])
def test_trim_keeps_the_floor_of_the_share(density: float) -> None:
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    mask = state([delta]).trim(0, density)
    assert isinstance(mask, Trim)
    assert (delta.abs() >= mask.threshold).sum() == max(1, int(density * 1000))


def test_trim_keeps_one_element_at_least_and_every_tie() -> None:
    delta = torch.tensor([1.0, -3.0, 3.0, 2.0])
    assert state([delta]).trim(0, 1e-9) == Trim(3.0)
    assert state([delta]).trim(0, 0.25) == Trim(3.0)
    assert state([delta]).trim(0, 0.75) == Trim(2.0)


@pytest.mark.parametrize("density", [1.0, 1.5])
def test_a_density_of_one_or_more_masks_nothing(density: float) -> None:
    vectors = state([torch.ones(3)])
    assert vectors.trim(0, density) == Keep() == vectors.drop(0, density)
    assert vectors.l1_scale(0, Keep()) == 1.0


@pytest.mark.parametrize("density", [0.0, -0.5])
def test_a_density_of_zero_or_less_keeps_nothing(density: float) -> None:
    vectors = state([torch.ones(3)])
    drop = vectors.drop(0, density)
    assert vectors.trim(0, density) == Trim(math.inf)
    assert isinstance(drop, Drop) and drop.density == 0.0
    assert vectors.l1_scale(0, drop) == 1.0


def test_experts_have_masks_of_their_own() -> None:
    vectors = state([torch.ones(3), torch.ones(3)])
    assert vectors.drop(0, 0.5) != vectors.drop(1, 0.5)


def test_l1_scale_restores_the_norm() -> None:
    delta = spread(5000)
    vectors = state([delta])
    mask = vectors.trim(0, 0.1)
    assert isinstance(mask, Trim)
    kept = delta[delta.abs() >= mask.threshold].double().abs().sum()
    assert vectors.l1_scale(0, mask) == pytest.approx((delta.double().abs().sum() / kept).item(), rel=1e-6)


def test_l1_scale_leaves_vanishing_vectors_alone() -> None:
    assert state([torch.zeros(8)]).l1_scale(0, Trim(1.0)) == 1.0
    assert state([torch.full((8,), 1e-9)]).l1_scale(0, Trim(0.0)) == 1.0
