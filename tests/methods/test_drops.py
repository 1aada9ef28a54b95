"""What DARE's masks leave of an L1 norm: a table, a look on demand and the pass itself must agree."""

import math

import pytest
import torch
from torch import Tensor

from evomerge.kernels import Sources
from evomerge.kernels.masks import MASK_LEVELS, mask_keys
from evomerge.kernels.voting import Drop, vote
from evomerge.methods import Setup, _drops
from evomerge.methods._drops import kept_l1
from evomerge.methods._magnitudes import MEMO_ENTRIES, STEPS, exact_l1
from tests.passes import merged

SEED = 5


def deltas(size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    return [torch.randn(size, generator=generator) * 10**i for i in range(2)]


def setups(*experts: Tensor) -> tuple[Setup, Setup]:
    """One that has the table and one that looks on demand."""
    found = [Setup(Sources("w", torch.zeros_like(experts[0]), experts), seed=SEED) for _ in range(2)]
    found[0].sources.set_prepared(_drops.prepare(found[0].sources, SEED))
    found[1].sources.set_prepared({})
    return found[0], found[1]


def masked(setup: Setup, expert: int, density: float) -> Tensor:
    """The masked task vector, by the pass that merges it."""
    count = len(setup.sources)
    one_hot = [float(i == expert) for i in range(count)]
    keys = mask_keys(SEED, setup.sources.name, count)
    masks = [Drop(density)] * count
    rule = vote(masks, one_hot, [1.0] * count, elect=False, normalize=False, lam=1.0, keys=keys)
    return merged(rule, setup.sources)


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_the_table_answers_every_step_like_a_look_on_demand(size: int) -> None:
    table, demand = setups(*deltas(size))
    for step in range(STEPS + 1):
        assert kept_l1(table, step % 2, step / STEPS) == kept_l1(demand, step % 2, step / STEPS), step
    assert not table.memo and len(demand.memo) <= MEMO_ENTRIES


@pytest.mark.parametrize("size", [7, 100_003])
def test_the_norm_is_that_of_what_the_pass_keeps(size: int) -> None:
    for found in setups(*deltas(size)):
        for expert, density in ((0, 0.5), (1, 0.5), (1, 0.123), (1, 0.98765), (0, 0.0), (0, 1.0)):
            kept = masked(found, expert, density)
            assert kept_l1(found, expert, density) == exact_l1(kept, float(deltas(size)[expert].abs().max()))


def test_blocks_of_a_large_tensor_are_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    table, demand = setups(*deltas(1003))
    monkeypatch.setattr(_drops, "BLOCK", 100)
    blocked, other = setups(*deltas(1003))
    assert torch.equal(table.state["dropped_l1"], blocked.state["dropped_l1"])
    assert kept_l1(demand, 1, 0.3337) == kept_l1(other, 1, 0.3337)


def test_norms_grow_with_the_density_from_nothing_to_all() -> None:
    table, _ = setups(*deltas(5000))
    for expert, delta in enumerate(deltas(5000)):
        norms = table.state["dropped_l1"][expert]
        assert norms[0] == 0 and norms[-1] == exact_l1(delta) and bool((norms.diff() >= 0).all())
        assert float(norms[500] / norms[-1]) == pytest.approx(0.5, abs=0.05)


def test_another_seed_tensor_or_expert_is_another_mask() -> None:
    (delta, _), zero = deltas(5000), torch.zeros(5000)
    tables = [_drops.prepare(Sources(n, zero, [delta, delta]), s) for n, s in (("w", 5), ("w", 6), ("v", 5))]
    rows = [tuple(row.tolist()) for table in tables for row in table["dropped_l1"]]
    assert len(set(rows)) == 6


def test_an_all_zero_tensor_keeps_nothing() -> None:
    for found in setups(torch.zeros(5)):
        assert kept_l1(found, 0, 0.5) == 0.0 == kept_l1(found, 0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_visible(bad: float) -> None:
    delta = deltas(100)[0]
    delta[3] = bad
    for found in setups(delta):
        for density in (0.0, 0.5, 0.1234, 1.0):
            assert not math.isfinite(kept_l1(found, 0, density))


def test_an_element_enters_at_the_first_density_that_keeps_it() -> None:
    edges = torch.cat([_drops.THRESHOLDS + offset for offset in (-2, -1, 0, 1, 2)])
    numbers = torch.cat([edges, torch.arange(0, MASK_LEVELS, 97, dtype=torch.int32)]).clamp(0, MASK_LEVELS - 1)
    assert torch.equal(_drops._first_step(numbers), torch.bucketize(numbers, _drops.THRESHOLDS, right=True))
