"""Thresholds and norms of trimmed task vectors: a table and a look on demand must give the same bits."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.kernels import Sources
from evomerge.methods import Setup, WholeModel, _magnitudes
from evomerge.methods._magnitudes import (
    BAND_OFFSETS,
    MEMO_ENTRIES,
    STEPS,
    TRIM_OFFSETS,
    above_l1,
    counts,
    exact_l1,
    histogram_threshold,
    kept_l1,
    magnitude_threshold,
    model_magnitude_threshold,
)

NAN, INF = float("nan"), float("inf")


def spread(size: int, seed: int = 0) -> Tensor:
    """Values over six orders of magnitude, where the order of a plain sum shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * 10 ** (6 * torch.rand(size, generator=generator) - 3)


def setups(*deltas: Tensor, offsets: tuple[int, ...] = TRIM_OFFSETS) -> tuple[Setup, Setup]:
    """One that has tables and one that looks on demand."""
    found = [Setup(Sources("w", torch.zeros_like(deltas[0]), deltas)) for _ in range(2)]
    found[0].sources.set_prepared(_magnitudes.prepare(found[0].sources, offsets))
    found[1].sources.set_prepared({})
    return found[0], found[1]


# --- exact norms ---


def test_exact_l1_is_the_same_in_any_order() -> None:
    values = spread(50_001)
    wanted = exact_l1(values)
    for seed in range(5):
        order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(seed))
        assert exact_l1(values[order]) == wanted
    assert exact_l1(values.view(3, -1).T) == exact_l1(-values) == wanted


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-3, 1.0, 1e30])
def test_exact_l1_is_close_to_float64(scale: float) -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(1)) * scale
    assert exact_l1(values) == pytest.approx(values.double().abs().sum().item(), rel=1e-8)


def test_exact_l1_of_edges() -> None:
    assert exact_l1(torch.empty(0)) == 0.0 == exact_l1(torch.zeros(4))
    assert exact_l1(torch.tensor([3.0])) == 3.0
    assert math.isinf(exact_l1(torch.tensor([1.0, -math.inf])))
    assert math.isnan(exact_l1(torch.tensor([1.0, math.nan])))


# --- tables ---


@pytest.mark.parametrize("size", [1, 2, 7, 999, 1000, 1001])
@pytest.mark.parametrize("offsets", [TRIM_OFFSETS, BAND_OFFSETS], ids=["trim", "band"])
def test_a_table_answers_every_step_like_a_look_on_demand(size: int, offsets: tuple[int, ...]) -> None:
    table, demand = setups(spread(size), spread(size, 1).round(decimals=1), offsets=offsets)
    for step in range(STEPS + 1):
        for keep in {min(size, max(1, int(step / STEPS * size) + offset)) for offset in offsets}:
            assert keep in counts(size, offsets)
            for number in (magnitude_threshold, kept_l1, above_l1):
                assert number(table, step % 2, keep) == number(demand, step % 2, keep)
    assert not table.memo and 0 < len(demand.memo) <= MEMO_ENTRIES


@pytest.mark.parametrize("size", [1, 2, 7, 999, 1000, 1001, 12_345])
def test_thresholds_and_norms_are_those_of_a_sort(size: int) -> None:
    delta = spread(size, 2)
    table, _ = setups(delta)
    ordered = np.sort(delta.abs().numpy())[::-1].astype(np.float64)
    total = ordered.sum()
    for keep in counts(size):
        assert magnitude_threshold(table, 0, int(keep)) == ordered[keep - 1]
        assert kept_l1(table, 0, int(keep)) == pytest.approx(ordered[:keep].sum(), abs=1e-8 * total)
        assert above_l1(table, 0, int(keep)) == pytest.approx(ordered[: keep - 1].sum(), abs=1e-8 * total)
    assert float(table.state["l1"][0]) == pytest.approx(total, rel=1e-8) == exact_l1(delta)


def test_ties_at_the_threshold_are_kept_and_are_not_above_it() -> None:
    for found in setups(torch.tensor([1.0, -3.0, 3.0, 2.0, 3.0, 0.0])):
        assert [magnitude_threshold(found, 0, keep) for keep in range(1, 7)] == [3.0, 3.0, 3.0, 2.0, 1.0, 0.0]
        assert [kept_l1(found, 0, keep) for keep in range(1, 7)] == [9.0, 9.0, 9.0, 11.0, 12.0, 12.0]
        assert [above_l1(found, 0, keep) for keep in range(1, 7)] == [0.0, 0.0, 0.0, 9.0, 11.0, 12.0]


def test_an_all_zero_tensor_has_zeros() -> None:
    for found in setups(torch.zeros(5)):
        assert magnitude_threshold(found, 0, 2) == kept_l1(found, 0, 2) == above_l1(found, 0, 2) == 0.0


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_stays_visible_and_breaks_nothing(bad: float) -> None:
    delta = spread(1000)
    delta[3] = bad
    table, demand = setups(delta)
    for keep in (1, 2, 500, 1000):
        for found in (table, demand):
            assert not math.isfinite(kept_l1(found, 0, keep))
        pair = magnitude_threshold(table, 0, keep), magnitude_threshold(demand, 0, keep)
        assert pair[0] == pair[1] or all(map(math.isnan, pair))
    assert not math.isfinite(float(table.state["l1"][0]))


def test_shape_dtype_and_strides_do_not_matter() -> None:
    flat = spread(600).to(torch.bfloat16)
    wanted = _magnitudes.prepare(Sources("w", torch.zeros(600, dtype=torch.bfloat16), [flat]))
    for delta in (flat.view(20, 30), flat.view(20, 30).T.contiguous().T, flat.view(2, 10, 30)):
        found = _magnitudes.prepare(Sources("w", torch.zeros_like(delta), [delta]))
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


# --- one threshold for the whole model ---


def model(expert: list[Tensor]) -> Setup:
    """The first tensor of a model with these task vectors."""
    held = [Sources(f"w{i}", torch.zeros_like(delta), [delta]) for i, delta in enumerate(expert)]
    found = Setup(held[0], whole_model=WholeModel(lambda: held))
    held[0].set_prepared(_magnitudes.prepare_model(found))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_model_keeps_its_share_and_hardly_more(seed: int) -> None:
    deltas = [0.02 * torch.randn(size, generator=torch.Generator().manual_seed(seed)) for size in (60_000, 40_000)]
    deltas[1] *= 7
    found, together = model(deltas), torch.cat(deltas).abs().sort(descending=True).values
    for density in (*(k / 50 for k in range(1, 50)), 0.3337, 1e-5):
        low, keep = model_magnitude_threshold(found, 0, density), max(1, int(density * 100_000))
        kept = int((together >= low).sum())
        assert keep <= kept <= keep + 0.001 * 100_000
        exact = float(together[keep - 1])
        assert exact * (1 - 2**-11) <= low <= exact


def test_a_models_table_answers_like_a_look_on_demand() -> None:
    found = model([spread(500), spread(77, 1)])
    for step in range(1, STEPS + 1):
        assert model_magnitude_threshold(found, 0, step / STEPS) == histogram_threshold(found, 0, step / STEPS)
    lows = [model_magnitude_threshold(found, 0, step / STEPS) for step in range(1, STEPS + 1)]
    assert lows == sorted(lows, reverse=True)


@pytest.mark.parametrize("bad", [NAN, -NAN, INF])
def test_a_broken_model_has_thresholds(bad: float) -> None:
    delta = spread(100)
    delta[:2] = bad
    found = model([delta])
    assert int((delta.abs() >= model_magnitude_threshold(found, 0, 0.5)).sum()) >= 48
