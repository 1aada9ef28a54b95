"""The rule of the TIES family on hand-made numbers: elements, signs and divisors that random data rarely hit."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.kernels import Sources
from evomerge.kernels.masks import mask_keys, mask_threshold
from evomerge.kernels.voting import Band, Drop, Keep, Mask, Trim, vote
from tests.passes import merged

BASE = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
DELTAS = torch.tensor([[0.5, -0.5, 1.0, 0.0, 0.25], [0.25, 1.0, -1.0, 0.0, 0.0], [-0.5, 0.5, 0.5, 0.0, 0.0]])
INF = float("inf")


def run(weights: tuple[float, ...] = (1.0, 1.0, 1.0), base: Tensor = BASE, **changes: Any) -> Tensor:
    fields: dict[str, Any] = {"elect": True, "normalize": True, "lam": 1.0}
    fields |= {"masks": (Keep(),) * 3, "scales": (1.0,) * 3, **changes}
    return merged(vote(weights=weights, **fields), Sources("w", base, list(base + DELTAS)))


def masked(delta: Tensor, mask: Mask, keys: tuple[int, ...] = ()) -> Tensor:
    """What a mask leaves of one task vector."""
    only = vote((mask,), (1.0,), (1.0,), elect=False, normalize=False, lam=1.0, keys=keys)
    return merged(only, Sources("w", torch.zeros_like(delta), [delta]))


def test_elects_averages_and_adds() -> None:
    assert run().tolist() == [1.375, 2.75, 3.75, 4.0, 5.25]


def test_a_zero_sum_elects_plus_and_zeros_never_agree() -> None:
    out = run((1.0, 1.0, 0.0))  # the third element's votes cancel: +1 is elected, and only the first expert has it
    assert out[2] == 4.0 and out[3] == 4.0 and out[4] == 5.25


def test_a_negative_weight_votes_against_its_task_vector() -> None:
    out = run((1.0, 0.0, -1.0), normalize=False)
    assert out[0] == 1.0 + 0.5 + 0.5  # −1 · −0.5 agrees with +0.5
    assert out[1] == 2.0 - 0.5 - 0.5


def test_a_divisor_of_zero_is_one() -> None:
    base = torch.zeros(5)
    out = run((1.0, -1.0, 0.0), base, sign="unweighted")
    assert torch.isfinite(out).all()
    assert out[0] == 0.5 - 0.25  # both agree on +, their weights sum to 0


def test_count_divides_by_the_agreeing_experts() -> None:
    assert run((2.0, 2.0, 2.0), divisor="count")[0] == 1.0 + (1.0 + 0.5) / 2


@pytest.mark.parametrize("divisor", ["weights", "count"])
def test_without_election_all_experts_count(divisor: str) -> None:
    out = run((2.0, 1.0, 1.0), elect=False, divisor=divisor)
    assert out[0] == pytest.approx(1.0 + (2 * 0.5 + 0.25 - 0.5) / (4 if divisor == "weights" else 3))


def test_without_election_weights_that_sum_to_nothing_are_not_divided_by_it() -> None:
    assert run((1.0, -1.0, 0.0), elect=False)[0] == 1.0 + 0.5 - 0.25


def test_scales_and_lambda_multiply() -> None:
    assert run((1.0, 0.0, 0.0), scales=(3.0, 1.0, 1.0), lam=0.5).tolist() == (BASE + 1.5 * DELTAS[0]).tolist()


def test_trim_keeps_the_threshold_itself() -> None:
    assert masked(DELTAS[0], Trim(0.5)).tolist() == [0.5, -0.5, 1.0, 0.0, 0.0]
    assert masked(DELTAS[0], Trim(INF)).abs().sum() == 0


def test_a_band_keeps_both_its_ends() -> None:
    delta = torch.tensor([0.5, -0.5, 1.0, -1.0, 0.25, 2.0])
    assert masked(delta, Band(0.5, 1.0)).tolist() == [0.5, -0.5, 1.0, -1.0, 0.0, 0.0]
    assert masked(delta, Band(0.3, 0.4)).abs().sum() == 0
    assert torch.equal(masked(delta, Band(0.0, INF)), delta)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_drop_is_the_generators_mask(density: float) -> None:
    kept = masked(torch.ones(100_000), Drop(density), mask_keys(0, "w", 1))  # a block and more
    assert set(kept.tolist()) <= {0.0, 1.0}
    assert abs(kept.mean().item() - density) < 0.01 and (0 < density < 1 or kept.mean().item() == density)
    words = vote((Drop(0.3), Keep()), (1, 1), (1, 1), elect=True, normalize=True, lam=1.0, keys=(5, 6, 7)).words
    assert words == (5, 6, 7, mask_threshold(0.3), mask_threshold(1.0))


def test_masks_of_another_class_may_stand_beside_keep() -> None:
    alone = run((0.0, 1.0, 0.0), elect=False, normalize=False)
    for mask in (Trim(0.9), Band(0.9, 2.0), Drop(0.5)):
        keys = mask_keys(0, "w", 3)
        out = run((0.0, 1.0, 0.0), masks=(mask, Keep(), mask), elect=False, normalize=False, keys=keys)
        assert torch.equal(out, alone)


EVERY = [
    Keep(),
    *(Trim(low) for low in (0.0, 2.0, INF)),
    *(Band(low, high) for low, high in ((0.0, 0.5), (0.5, 1.0), (2.0, INF))),
    *(Drop(density) for density in (0.0, 0.5, 1.0)),
]


@pytest.mark.parametrize("mask", EVERY, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), INF, -INF])
def test_what_is_not_finite_is_never_masked_or_voted_away(mask: Mask, bad: float) -> None:
    hurt = BASE.clone()
    hurt[:] = bad
    keys = mask_keys(0, "w", 2)
    for elect, normalize, sign, weights in product(
        (True, False), (True, False), ("weighted", "unweighted"), ((1.0, 0.1), (1.0, -0.1), (1.0, 0.0))
    ):
        rule: dict[str, Any] = {"elect": elect, "normalize": normalize, "sign": sign, "lam": 1.0, "keys": keys}
        out = merged(vote((mask, mask), weights, (1.0, 1.0), **rule), Sources("w", BASE, [BASE + 1, hurt]))
        assert not out.isfinite().any(), (elect, normalize, sign, weights)


def test_a_masked_element_is_the_base() -> None:
    base = torch.tensor([0.0, -0.0, 1e-40, -1.5, 3.3e38])
    for mask, elect in product((Trim(INF), Band(1e30, 2e30), Drop(0.0)), (True, False)):
        rule = vote((mask,), (0.7,), (1.3,), elect=elect, normalize=True, lam=0.9, keys=mask_keys(0, "w", 1))
        out = merged(rule, Sources("w", base, [base + DELTAS[0]]))
        assert torch.equal(out, base)


def test_one_number_per_expert() -> None:
    with pytest.raises((ValueError, IndexError)):
        run((1.0, 1.0))
