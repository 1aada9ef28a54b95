"""The control: as far from the base as task arithmetic in every element, in a direction that means nothing."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.kernels.factors import Factors
from evomerge.kernels.sources import Update
from tests.methods.recipes import merge, random_tensors


def control(base: Tensor, experts: Sequence[Update], **settings: Any) -> Tensor:
    return merge("random_direction", base, experts, amount=0.5, **settings)


def test_every_element_moves_as_far_as_in_task_arithmetic() -> None:
    base, *experts = random_tensors((70, 31), 3)
    plain = merge("task_arithmetic", base, experts, [0.5] * 3, **{"lambda": 1.0}) - base
    moved = control(base, experts) - base
    assert torch.allclose(moved.abs(), plain.abs(), rtol=1e-4, atol=1e-6)


def test_half_of_the_elements_move_the_wrong_way_and_the_direction_is_lost() -> None:
    base, *experts = random_tensors((300, 200), 3)
    plain = merge("task_arithmetic", base, experts, [0.5] * 3, **{"lambda": 1.0}) - base
    moved = control(base, experts) - base
    same = ((moved * plain) > 0).float().mean().item()
    assert same == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(plain.numel()))
    cosine = torch.nn.functional.cosine_similarity(moved.flatten(), plain.flatten(), dim=0).item()
    assert abs(cosine) < 5 / math.sqrt(plain.numel())
    rows = (torch.sign(moved) == torch.sign(plain)).float().mean(dim=1)
    assert rows.min() > 0.25 and rows.max() < 0.75


def test_seed_and_tensor_decide_the_signs() -> None:
    base, *experts = random_tensors((40, 30), 3)
    first = control(base, experts)
    assert torch.equal(first, control(base, experts))
    assert not torch.equal(first, control(base, experts, seed=4))
    assert not torch.equal(first, control(base, experts, tensor="another.weight"))


def test_an_adapter_moves_as_its_dense_form() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(24, 16, generator=generator)
    factors = Factors(torch.randn(24, 4, generator=generator), torch.randn(4, 16, generator=generator), 0.1)
    dense = base + factors.delta()
    assert torch.allclose(control(base, [factors]), control(base, [dense]), rtol=1e-4, atol=1e-5)
