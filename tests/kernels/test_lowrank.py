"""Updates from factors: tiles, dense copies of them, and the pass with a core."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from evomerge.kernels import LinComb, LowRank, Runner, Sources, apply
from evomerge.kernels.factors import Factors
from evomerge.kernels.lowrank import TILE, Tiles, dense
from evomerge.kernels.voting import Keep, vote
from tests.passes import merged

ROWS, COLUMNS, RANK = 700, 640, 5  # two tiles
CORE = np.random.default_rng(0).normal(size=(RANK, RANK))


@pytest.fixture
def sources() -> Sources:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(ROWS, COLUMNS, generator=generator)
    up, down = torch.randn(ROWS, RANK, generator=generator), torch.randn(RANK, COLUMNS, generator=generator)
    found = Sources("w", base, [Factors(up, down, 0.5)])
    found.set_prepared({"bank.up": up.to(torch.bfloat16), "bank.down": down.to(torch.bfloat16)})
    return found


def test_tiles_cover_every_row_once() -> None:
    for rows, columns in ((1, 1), (ROWS, COLUMNS), (5, 2 * TILE["cpu"]), (TILE["cpu"] + 1, 1), (3, 0)):
        matrix = torch.empty(rows, columns, device="meta")
        covered = [row for tile in Tiles(matrix) for row in range(rows)[tile]]
        assert covered == list(range(rows))
    assert len(list(Tiles(torch.empty(ROWS, COLUMNS)))) == 2


def test_a_core_between_prepared_factors(sources: Sources) -> None:
    up, down = sources.bank("up").double(), sources.bank("down").double()
    wanted = sources.base.double() + up @ torch.from_numpy(CORE) @ down
    assert torch.allclose(merged(LowRank(CORE), sources).double(), wanted, atol=1e-4)
    assert torch.equal(merged(LowRank(np.zeros((RANK, RANK))), sources), sources.base)


def test_the_flag_of_a_core(sources: Sources) -> None:
    for core, dtype, beyond in ((CORE, torch.float16, False), (CORE * 1e5, torch.float16, True)):
        assert bool(apply(LowRank(core), sources, torch.empty(ROWS, COLUMNS, dtype=dtype), Runner())) == beyond
    assert apply(LowRank(CORE * np.nan), sources, torch.empty(ROWS, COLUMNS), Runner())


def test_cores_are_equal_by_value() -> None:
    assert LowRank(CORE) == LowRank(CORE.copy()) and LowRank(CORE) != LowRank(CORE + 1)
    assert LowRank(CORE) != LinComb(1.0, ())


@pytest.fixture
def threads() -> Iterator[list[int]]:
    before = torch.get_num_threads()
    yield [1, 2]
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit(sources: Sources, threads: list[int]) -> None:
    elected = vote((Keep(),), (0.5,), (1.0,), elect=True, normalize=False, lam=1.0)
    found = []
    for count in threads:
        torch.set_num_threads(count)
        passes = [merged(c, sources) for c in (LinComb(0.3, (0.7,)), elected, LowRank(CORE))]
        found.append([*passes, sources.delta(0), sources.expert(0)])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_dense_copy_has_the_bits_that_a_pass_sees(sources: Sources) -> None:
    whole = vote((Keep(),), (1.0,), (1.0,), elect=False, normalize=False, lam=1.0)
    (update,) = sources.factors() or ()
    assert torch.equal(merged(whole, sources), dense(update) + sources.base)
    assert torch.equal(sources.delta(0), dense(update))


def test_factors_are_there_only_where_no_expert_is_dense(sources: Sources) -> None:
    base, (update,) = sources.base, sources.factors() or ()
    idle, low = Sources("w", base, [None, update]).factors() or ()
    assert low.up is update.up and idle.up.shape == (ROWS, 0) and idle.down.shape == (0, COLUMNS)
    assert torch.equal(idle.delta(), torch.zeros_like(base))
    assert Sources("w", base, [update, base]).factors() is None
    assert Sources("b", base[0], [None]).factors() is None
