"""The statistics of an audit against dense float64 formulas, and their blocks and samples."""

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.audit import measure
from evomerge.audit.values import values_of
from evomerge.kernels import Factors, Update


def drawn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dense_gram(base: Tensor, updates: list[Update]) -> np.ndarray:
    """The inner products of base and task vectors in float64."""
    rows = [base.double().flatten()]
    for update in updates:
        if isinstance(update, Factors):
            rows.append((update.up.double() @ update.down.double() * update.scale).flatten())
        elif update is None:
            rows.append(torch.zeros_like(rows[0]))
        else:
            rows.append((update.double() - base.double()).flatten())
    stack = torch.stack(rows)
    return np.asarray((stack @ stack.T).numpy())


BASE = drawn(40, 30, seed=0)
LOW = [Factors(drawn(40, r, seed=r), drawn(r, 30, seed=9 + r), 0.3 * r) for r in (1, 4)]
CASES: dict[str, list[Update]] = {
    "factors": [*LOW, None],
    "dense": [BASE + drawn(40, 30, seed=3, scale=0.1), BASE + drawn(40, 30, seed=4, scale=0.1)],
    "mixed": [LOW[0], BASE + drawn(40, 30, seed=3, scale=0.1), None],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("block", [1 << 18, 64])
def test_the_gram_matrix_is_that_of_the_dense_deltas(monkeypatch: pytest.MonkeyPatch, name: str, block: int) -> None:
    monkeypatch.setattr(measure, "BLOCK", block)
    gram, changed = measure._products(BASE, CASES[name])
    assert np.allclose(gram, dense_gram(BASE, CASES[name]), rtol=1e-4, atol=1e-3)
    assert changed == tuple(update is not None for update in CASES[name])


def test_a_sample_of_blocks_gives_nearly_the_same_norms_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    base = drawn(2000, 30, seed=0)
    updates: list[Update] = [
        base + drawn(2000, 30, seed=1, scale=0.1),
        Factors(drawn(2000, 2, seed=2), drawn(2, 30, seed=3), 1.0),
    ]
    monkeypatch.setattr(measure, "BLOCK", 600)
    monkeypatch.setattr(measure, "READ", 12_000)
    gram, _ = measure._products(base, updates)
    norms, exact = np.sqrt(np.diag(gram)), np.sqrt(np.diag(dense_gram(base, updates)))
    assert np.allclose(norms, exact, rtol=0.05) and not np.array_equal(norms, exact)
    assert np.array_equal(gram, measure._products(base, updates)[0])


def test_a_difference_outside_of_the_sample_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BLOCK", 600)
    monkeypatch.setattr(measure, "READ", 6_000)
    base = drawn(2000, 30, seed=0)
    for row in range(0, 2000, 119):
        other = base.clone()
        other[row, 7] += 1
        assert measure._products(base, [other])[1] == (True,)
    assert measure._products(base, [base.clone()])[1] == (False,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_rounding_of_an_expert_is_no_delta(dtype: torch.dtype) -> None:
    gram, changed = measure._products(BASE, [BASE.to(dtype)])
    assert changed == (False,) and gram[1, 1] == 0
    gram, changed = measure._products(BASE.to(dtype), [BASE])
    assert changed == (True,) and gram[1, 1] > 0


def test_values_are_counted_over_all_parts() -> None:
    tensor = drawn(50, 40, seed=1)
    tensor[0, :3] = float("nan")
    tensor[7, 5] = float("-inf")
    tensor[9] = 0
    tensor[49, 39] = -1234.5
    found = values_of(tensor, parts=64)
    assert (found.nan, found.infinite, found.zeros, found.size) == (3, 1, 40, 2000)
    assert found.largest == 1234.5 and not found.is_finite
    assert found.median == pytest.approx(float(tensor.abs().nan_to_num(0, 0, 0).median()))


def test_denormal_numbers_are_those_below_the_smallest_normal_one_of_the_dtype() -> None:
    assert values_of(torch.full((8, 8), 1e-40)).denormal == 1
    assert values_of(torch.full((8, 8), 1e-5, dtype=torch.float16)).denormal == 1
    assert values_of(torch.full((8, 8), 1e-5)).denormal == 0 == values_of(torch.zeros(8, 8)).denormal


@pytest.mark.parametrize("tensor", [torch.tensor(2.0), torch.ones(5), torch.ones(3, 1, 4)])
def test_numbers_vectors_and_stacks_are_rows(tensor: Tensor) -> None:
    for updates in ([tensor * 2], [None]):
        gram, _ = measure._products(tensor, updates)
        assert gram[0, 0] == pytest.approx(float(tensor.square().sum()))
