"""The linear pass, dense, low-rank and row by row, against float64."""

import sys

import pytest
import torch
from torch import Tensor

from evomerge.kernels import LinComb, PerRow, Runner, Sources, apply
from evomerge.kernels.factors import Factors
from evomerge.kernels.lowrank import Tiles
from tests.passes import merged


def factors(rows: int, columns: int, rank: int, seed: int, dtype: torch.dtype = torch.float32) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(rows, rank, generator=generator).to(dtype)
    return Factors(up, torch.randn(rank, columns, generator=generator).to(dtype), 0.5)


def dense(update: Factors, base: Tensor) -> Tensor:
    return base.double() + 0.5 * update.up.double() @ update.down.double()


def close(ours: Tensor, wanted: Tensor) -> None:
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.fixture
def base() -> Tensor:
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dense_adapters_and_idle_experts_mix(base: Tensor, dtype: torch.dtype) -> None:
    full, adapter = (base + 1).to(dtype), factors(9, 6, 2, seed=1, dtype=dtype)
    kept = base.to(dtype)
    out = merged(LinComb(0.2, (0.5, 0.25, 0.05)), Sources("w", kept, [full, adapter, None]))
    close(out, 0.25 * kept.double() + 0.5 * full.double() + 0.25 * dense(adapter, kept))


def test_adapters_of_different_rank_add_up(base: Tensor) -> None:
    first, second = factors(9, 6, 1, seed=1), factors(9, 6, 4, seed=2)
    out = merged(LinComb(-1.0, (0.7, 1.3)), Sources("w", base, [first, second]))
    close(out, -base.double() + 0.7 * dense(first, base) + 1.3 * dense(second, base))


def test_adapters_alone_are_a_sum_without_a_base(base: Tensor) -> None:
    adapter = factors(9, 6, 2, seed=1)
    broken = torch.full_like(base, float("nan"))
    out = merged(LinComb(-0.7, (0.7,)), Sources("w", broken, [adapter]))
    close(out, 0.7 * (dense(adapter, base) - base.double()))


def test_adapters_over_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of three rows of 50, the last one short."""
    base = torch.randn(50, 40, generator=torch.Generator().manual_seed(3))
    adapter, full = factors(50, 40, 3, seed=1), base - 2
    sources = Sources("w", base, [adapter, full])
    whole = merged(LinComb(0.1, (0.6, 0.3)), sources)
    monkeypatch.setattr(sys.modules[Tiles.__module__], "TILE", {"cpu": 130})
    close(merged(LinComb(0.1, (0.6, 0.3)), sources), whole.double())
    close(whole, 0.1 * base.double() + 0.6 * dense(adapter, base) + 0.3 * full.double())


def test_terms_of_weight_zero_are_not_read(base: Tensor) -> None:
    broken = torch.full_like(base, float("nan"))
    hurt = Factors(torch.full((9, 1), float("nan")), torch.ones(1, 6), 1.0)
    assert merged(LinComb(1.0, (0.0, 0.0)), Sources("w", base, [broken, hurt])).equal(base)
    assert merged(LinComb(0.0, (1.0, 0.0)), Sources("w", broken, [base, broken])).equal(base)


def test_crumbs_of_a_cancelled_base_are_not_read(base: Tensor) -> None:
    broken = torch.full_like(base, float("inf"))
    assert merged(LinComb(1e-16, (0.7, 0.3)), Sources("w", broken, [base, base])).isfinite().all()


def test_all_coefficients_zero_is_zero_whatever_was_there(base: Tensor) -> None:
    out = torch.full_like(base, float("nan"))
    assert not apply(LinComb(0.0, (0.0,)), Sources("w", base, [base]), out, Runner())
    assert torch.equal(out, torch.zeros_like(base))


def test_an_expert_with_nothing_new_is_the_base(base: Tensor) -> None:
    sources = Sources("w", base, [None])
    assert merged(LinComb(0.0, (1.0,)), sources).equal(base)
    assert sources.delta(0).equal(torch.zeros_like(base)) and sources.expert(0).equal(base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", [0, 1])
def test_one_hot_is_that_model_to_the_bit(base: Tensor, dtype: torch.dtype, place: int) -> None:
    """A minus before a zero is a bit too."""
    base[0, :2] = torch.tensor([0.0, -0.0])
    models = [base.to(dtype), (base * 3).to(dtype)]
    hot = LinComb(float(place == 0), (float(place == 1),))
    out = torch.empty_like(models[0])
    apply(hot, Sources("w", models[0], [models[1]]), out, Runner())
    assert torch.equal(out.view(torch.uint8), models[place].view(torch.uint8))


def test_the_result_and_the_task_vector_are_new_tensors(base: Tensor) -> None:
    expert, before = base + 1, base.clone()
    sources = Sources("w", base, [expert])
    merged(LinComb(1.0, (0.0,)), sources).zero_()
    sources.delta(0).zero_()
    assert base.equal(before) and expert.equal(before + 1)


def test_factors_are_the_same_expert_dense_or_not(base: Tensor) -> None:
    adapter = factors(9, 6, 3, seed=5)
    sources = Sources("w", base, [adapter])
    assert torch.allclose(sources.expert(0).double(), dense(adapter, base), atol=1e-6)
    assert torch.allclose(sources.delta(0).double() + base, dense(adapter, base), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_narrow_tensors_are_taken_in_fp32(base: Tensor, dtype: torch.dtype) -> None:
    narrow, expert = base.to(dtype), (base + 0.25).to(dtype)
    out = merged(LinComb(0.3, (0.7,)), Sources("w", narrow, [expert]))
    exact = 0.3 * narrow.double() + 0.7 * expert.double()
    assert torch.allclose(out.double(), exact, rtol=1e-6, atol=1e-7)  # rounding a product to bf16 costs 4e-3


def test_directions_are_prepared_tensors(base: Tensor) -> None:
    sources = Sources("w", base, [base + 1])
    sources.set_prepared({"bank.direction.0": torch.full_like(base, 2.0), "bank.direction.1": base * float("nan")})
    out = merged(LinComb(0.5, (0.5,), (0.25, 0.0)), sources)
    close(out, base.double() + 0.5 + 0.5)


ROWS = PerRow(tuple(i / 7 for i in range(9)))
PER_ROW = torch.tensor(ROWS.values, dtype=torch.float64)[:, None]


def test_rows_have_coefficients_of_their_own(base: Tensor) -> None:
    one, two = base + 1, base * base
    out = merged(LinComb(0.25, (ROWS, 0.5)), Sources("w", base, [one, two]))
    close(out, 0.25 * base.double() + PER_ROW * one.double() + 0.5 * two.double())
    out = merged(LinComb(ROWS, (0.5, 0.0)), Sources("w", base, [one, torch.full_like(base, float("nan"))]))
    close(out, PER_ROW * base.double() + 0.5 * one.double())


@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 2, 3)])
def test_rows_are_the_first_axis_of_any_shape(shape: tuple[int, ...]) -> None:
    base = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    out = merged(LinComb(0.5, (ROWS,)), Sources("w", base, [base * base]))
    flat = base.double().view(9, -1)
    close(out, (0.5 * flat + PER_ROW * flat * flat).view(shape))


@pytest.mark.parametrize("others", ["adapter", "idle"])
def test_rows_beside_an_adapter_or_an_idle_expert(base: Tensor, others: str) -> None:
    adapter = factors(9, 6, 2, seed=1) if others == "adapter" else None
    second = dense(adapter, base) if adapter else base.double()
    full = base + 1
    out = merged(LinComb(0.25, (ROWS, 0.5)), Sources("w", base, [full, adapter]))
    close(out, 0.25 * base.double() + PER_ROW * full.double() + 0.5 * second)
    out = merged(LinComb(0.25, (0.5, ROWS)), Sources("w", base, [full, adapter]))
    close(out, 0.25 * base.double() + 0.5 * full.double() + PER_ROW * second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_flag_of_every_kind_of_term(base: Tensor, dtype: torch.dtype) -> None:
    nan = torch.full_like(base, 1.0)
    nan[-1, -1] = float("nan")
    hurt = Factors(nan, torch.ones(6, 6), 1.0)
    good = factors(9, 6, 2, seed=1)
    for update, weight in ((nan, 0.5), (hurt, 0.5), (good, 0.5), (nan, ROWS), (None, float("nan")), (good, 1e9)):
        out = torch.empty(9, 6, dtype=dtype)
        flag = apply(LinComb(0.5, (weight,)), Sources("w", base, [update]), out, Runner())
        assert flag.shape == () and bool(flag) == (not out.isfinite().all())
        assert bool(flag) == (update is not good or (weight == 1e9 and dtype == torch.float16))
