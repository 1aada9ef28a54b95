"""The elementwise pass: what a rule is given, whatever the experts bring, and where its update is added."""

import sys

import pytest
import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb, Runner, Sources, apply
from evomerge.kernels.factors import Factors
from evomerge.kernels.lowrank import Tiles
from evomerge.kernels.masks import mask_keys
from evomerge.kernels.voting import Drop, Keep, vote
from tests.passes import merged


def first(block: Block) -> Tensor:
    return block.deltas[0] * block.numbers[0]


def banked(block: Block) -> Tensor:
    return block.deltas[0] * block.bank[0].float() + block.bank[1].float() * block.numbers[0] + block.words[0]


def adapter(rows: int, columns: int, seed: int = 1) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rows, 3, generator=generator), torch.randn(3, columns, generator=generator), 0.5)


@pytest.fixture
def base() -> Tensor:
    return torch.randn(50, 40, generator=torch.Generator().manual_seed(0))


def test_a_rule_sees_task_vectors_numbers_words_and_banks(base: Tensor) -> None:
    sources = Sources("w", base, [base + 1])
    sources.set_prepared({"bank.a": torch.full((50, 40), 3, dtype=torch.uint8), "bank.b": torch.full_like(base, 0.5)})
    out = merged(Consensus(banked, (4.0,), (7,), ("a", "b")), sources)
    assert torch.allclose(out, base + 3 + 2 + 7, atol=1e-5)


def test_dense_low_rank_and_idle_experts(base: Tensor) -> None:
    low = adapter(50, 40)
    rule = vote((Keep(),) * 3, (0.5, 0.3, 0.2), (1.0,) * 3, elect=False, normalize=False, lam=1.0)
    out = merged(rule, Sources("w", base, [base * 2, low, None]))
    wanted = base.double() * 1.5 + 0.3 * 0.5 * low.up.double() @ low.down.double()
    assert torch.allclose(out.double(), wanted, atol=1e-5)


@pytest.mark.parametrize("rows_in_a_tile", [1, 3, 7, 50])
def test_tiles_change_neither_masks_nor_bits(
    base: Tensor, rows_in_a_tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter beside a dense expert: made tile by tile, with the same masks and the same task vectors as whole."""
    low = adapter(50, 40)
    monkeypatch.setattr(sys.modules[Tiles.__module__], "TILE", {"cpu": rows_in_a_tile * 40})
    masks, keys = (Drop(0.5), Drop(0.3)), mask_keys(3, "w", 2)
    rule = vote(masks, (0.5, 0.3), (1.1, 1.2), elect=True, normalize=True, lam=0.9, keys=keys)
    tiled = Sources("w", base, [low, base * 2])
    out = merged(rule, tiled)
    whole = Sources("w", torch.zeros_like(base), [tiled.delta(0), tiled.delta(1)])  # the same task vectors, dense
    update = merged(rule, whole)
    assert torch.equal(out, update + base)
    assert 100 < int((update == 0).sum()) < 1900


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_task_vectors_are_taken_in_fp32_and_rounded_once(base: Tensor, dtype: torch.dtype) -> None:
    narrow, expert = base.to(dtype), (base * 1.01 + 0.3).to(dtype)
    out = torch.empty(50, 40, dtype=dtype)
    assert not apply(Consensus(first, (0.7,)), Sources("w", narrow, [expert]), out, Runner())
    assert torch.equal(out, (narrow.float() + (expert.float() - narrow.float()) * 0.7).to(dtype))


def test_the_flag_of_dense_and_tiled_passes(base: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Tiles.__module__], "TILE", {"cpu": 7 * 40})
    for update in (base * 2, adapter(50, 40)):
        for beyond in (1.0, 1e7):
            out = torch.empty(50, 40, dtype=torch.float16)
            flag = apply(Consensus(first, (beyond,)), Sources("w", base, [update]), out, Runner())
            assert flag.shape == () and bool(flag) == (beyond > 1) == (not out.isfinite().all())
    hurt = adapter(50, 40)
    hurt.up[-1, -1] = float("nan")
    flag = apply(Consensus(first, (1.0,)), Sources("w", base, [hurt]), torch.empty(50, 40), Runner())
    assert flag


@pytest.mark.parametrize("update", ["dense", "factors", "idle"])
def test_everything_is_brought_to_the_device(base: Tensor, update: str) -> None:
    """The meta device stands for another device than the one where the tensors are stored."""
    expert = {"dense": base + 1, "factors": adapter(50, 40), "idle": None}[update]
    sources = Sources("w", base, [expert], device="meta")
    sources.set_prepared({"bank.direction.0": base})
    keep = vote((Keep(),), (0.5,), (1.0,), elect=True, normalize=True, lam=1.0)
    for coefficients in (LinComb(0.5, (0.5,), (0.1,)), keep):
        assert merged(coefficients, sources).device.type == "meta"
    assert sources.expert(0).device.type == sources.delta(0).device.type == "meta"
