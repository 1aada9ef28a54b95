"""The consensus pass on hand-made numbers: elements, signs and divisors that random data rarely hit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.kernels import Consensus, Drop, Keep, Sources, Trim, apply
from evomerge.kernels.consensus import apply_mask
from evomerge.kernels.masks import mask_key

BASE = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
DELTAS = torch.tensor([[0.5, -0.5, 1.0, 0.0, 0.25], [0.25, 1.0, -1.0, 0.0, 0.0], [-0.5, 0.5, 0.5, 0.0, 0.0]])


def run(weights: tuple[float, ...] = (1.0, 1.0, 1.0), base: Tensor = BASE, **changes: Any) -> Tensor:
    fields: dict[str, Any] = {"elect": True, "normalize": True, "lam": 1.0}
    fields |= {"masks": (Keep(),) * 3, "scales": (1.0,) * 3, **changes}
    return apply(Consensus(weights=weights, **fields), Sources("w", base, list(base + DELTAS)))


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


def test_scales_and_lambda_multiply() -> None:
    assert run((1.0, 0.0, 0.0), scales=(3.0, 1.0, 1.0), lam=0.5).tolist() == (BASE + 1.5 * DELTAS[0]).tolist()


def test_trim_keeps_the_threshold_itself() -> None:
    assert apply_mask(DELTAS[0].clone(), Trim(0.5)).tolist() == [0.5, -0.5, 1.0, 0.0, 0.0]
    assert apply_mask(DELTAS[0].clone(), Trim(float("inf"))).abs().sum() == 0


def test_drop_is_the_generators_mask() -> None:
    ones = torch.ones(1000)
    kept = apply_mask(ones.clone(), Drop(mask_key(0, "w", 0), 0.3))
    assert set(kept.tolist()) == {0.0, 1.0} and 200 < kept.sum() < 400
    assert apply_mask(ones.clone(), Keep()).equal(ones)


def test_a_nan_is_never_voted_away() -> None:
    sources = Sources("w", BASE, [BASE + 1, torch.full((5,), float("nan"))])
    for elect in (True, False):
        merged = Consensus((1.0, 0.1), (Keep(), Keep()), (1.0, 1.0), elect=elect, normalize=True, lam=1.0)
        assert apply(merged, sources).isnan().all()


def test_one_number_per_expert() -> None:
    with pytest.raises(ValueError, match="zip"):
        run((1.0, 1.0))
