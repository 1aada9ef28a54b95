"""The linear pass, dense and low-rank, against float64."""

import pytest
import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.kernels import Consensus, Keep, LinComb, Sources, apply
from evomerge.lora import Factors


def factors(rows: int, columns: int, rank: int, seed: int, dtype: torch.dtype = torch.float32) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(rows, rank, generator=generator).to(dtype)
    return Factors(up, torch.randn(rank, columns, generator=generator).to(dtype), 0.5)


def dense(update: Factors, base: Tensor) -> Tensor:
    return base.double() + 0.5 * update.up.double() @ update.down.double()


@pytest.fixture
def base() -> Tensor:
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dense_adapters_and_idle_experts_mix(base: Tensor, dtype: torch.dtype) -> None:
    full, adapter = (base + 1).to(dtype), factors(9, 6, 2, seed=1, dtype=dtype)
    kept = base.to(dtype)
    out = apply(LinComb(0.2, (0.5, 0.25, 0.05)), Sources("w", kept, [full, adapter, None]))
    wanted = 0.25 * kept.double() + 0.5 * full.double() + 0.25 * dense(adapter, kept)
    assert out.dtype == torch.float32
    assert torch.allclose(out.double(), wanted, rtol=1e-6, atol=1e-6)


def test_adapters_of_different_rank_add_up(base: Tensor) -> None:
    first, second = factors(9, 6, 1, seed=1), factors(9, 6, 4, seed=2)
    out = apply(LinComb(-1.0, (0.7, 1.3)), Sources("w", base, [first, second]))
    wanted = -base.double() + 0.7 * dense(first, base) + 1.3 * dense(second, base)
    assert torch.allclose(out.double(), wanted, rtol=1e-6, atol=1e-6)


def test_terms_of_weight_zero_are_not_read(base: Tensor) -> None:
    broken = torch.full_like(base, float("nan"))
    hurt = Factors(torch.full((9, 1), float("nan")), torch.ones(1, 6), 1.0)
    assert apply(LinComb(1.0, (0.0, 0.0)), Sources("w", base, [broken, hurt])).equal(base)
    assert apply(LinComb(0.0, (1.0, 0.0)), Sources("w", broken, [base, broken])).equal(base)


def test_crumbs_of_a_cancelled_base_are_not_read(base: Tensor) -> None:
    broken = torch.full_like(base, float("inf"))
    assert apply(LinComb(1e-16, (0.7, 0.3)), Sources("w", broken, [base, base])).isfinite().all()


def test_an_expert_with_nothing_new_is_the_base(base: Tensor) -> None:
    sources = Sources("w", base, [None])
    assert apply(LinComb(0.0, (1.0,)), sources).equal(base)
    assert sources.delta(0).equal(torch.zeros_like(base)) and sources.expert(0).equal(base)


def test_the_result_and_the_task_vector_are_new_tensors(base: Tensor) -> None:
    expert, before = base + 1, base.clone()
    sources = Sources("w", base, [expert])
    apply(LinComb(1.0, (0.0,)), sources).zero_()
    sources.delta(0).zero_()
    assert base.equal(before) and expert.equal(before + 1)


def test_factors_are_the_same_expert_dense_or_not(base: Tensor) -> None:
    adapter = factors(9, 6, 3, seed=5)
    sources = Sources("w", base, [adapter])
    assert torch.allclose(sources.expert(0).double(), dense(adapter, base), atol=1e-6)
    assert torch.allclose(sources.delta(0).double() + base, dense(adapter, base), atol=1e-6)


def test_a_threshold_over_the_model_needs_a_model(base: Tensor) -> None:
    with pytest.raises(CandidateError, match=r"^layer\.w: a threshold over the whole model"):
        Sources("layer.w", base, [base]).model_threshold(0, 0.5)
    assert Sources("w", base, [base], lambda expert, density: expert + density).model_threshold(2, 0.5) == 2.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_narrow_tensors_are_taken_in_fp32(base: Tensor, dtype: torch.dtype) -> None:
    narrow, expert = base.to(dtype), (base + 0.25).to(dtype)
    merged = apply(LinComb(0.3, (0.7,)), Sources("w", narrow, [expert]))
    exact = 0.3 * narrow.double() + 0.7 * expert.double()
    assert merged.dtype == torch.float32
    assert torch.allclose(merged.double(), exact, rtol=1e-6, atol=1e-7)  # rounding a product to bf16 costs 4e-3


@pytest.mark.parametrize("update", ["dense", "factors", "idle"])
def test_everything_is_brought_to_the_device(base: Tensor, update: str) -> None:
    """The meta device stands for another device than the one where the tensors are stored."""
    expert = {"dense": base + 1, "factors": factors(9, 6, 3, seed=5), "idle": None}[update]
    sources = Sources("w", base, [expert], device="meta")
    keep = Consensus((0.5,), (Keep(),), (1.0,), elect=True, normalize=True, lam=1.0)
    for coefficients in (LinComb(0.5, (0.5,)), keep):
        assert apply(coefficients, sources).device.type == "meta"
    assert sources.expert(0).device.type == sources.delta(0).device.type == "meta"
