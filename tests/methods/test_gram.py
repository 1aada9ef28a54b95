"""Inner products against float64 numpy, and their bits for any number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.kernels import Sources
from evomerge.kernels.factors import Factors
from evomerge.methods import Setup, _gram
from evomerge.methods._contract import FloatArray
from evomerge.methods._gram import BLOCK, cosines, line_products, norms, products

SIZES = [0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 33]


def vectors(size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    scale = 10 ** (6 * torch.rand(size, generator=generator) - 3)
    return [(torch.randn(size, generator=generator) * scale).to(dtype) for _ in range(3)]


def exact(tensors: list[Tensor]) -> FloatArray:
    flat = np.stack([tensor.double().numpy().ravel() for tensor in tensors])
    return np.asarray(flat @ flat.T)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_are_those_of_float64(size: int, dtype: torch.dtype) -> None:
    tensors = vectors(size, dtype)
    found = products(tensors)
    assert found.dtype == torch.float64 and torch.equal(found, found.T)
    assert np.allclose(found.numpy(), exact(tensors), rtol=1e-12, atol=1e-12 * np.trace(exact(tensors)))


def test_the_order_of_addition_changes_no_bit() -> None:
    """Each device and each vector width adds in an order of its own."""
    tensors = vectors(BLOCK)
    order = torch.randperm(BLOCK, generator=torch.Generator().manual_seed(1))
    assert torch.equal(products(tensors), products([tensor[order] for tensor in tensors]))


def test_the_shape_only_folds_the_sum() -> None:
    tensors = vectors(5 * BLOCK)
    folded = [tensor.view(5, -1, 2) for tensor in tensors]
    strided = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in folded]
    assert torch.equal(products(tensors), products(folded)) and torch.equal(products(tensors), products(strided))


@pytest.mark.parametrize("shape", [(1, 5), (33, 7), (3, 2 * BLOCK + 5), (200, 130), (7, 0)], ids=str)
def test_line_products_are_products_of_lines(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [tensor.view(shape) for tensor in vectors(shape[0] * shape[1])]
    whole = line_products(lines)
    assert whole.shape == (shape[0], 3, 3)
    for row in range(shape[0]):
        wanted = exact([tensor[row] for tensor in lines])
        assert np.allclose(whole[row], wanted, rtol=1e-12, atol=1e-12 * np.trace(wanted))
    monkeypatch.setattr(_gram, "TILE", 100)  # a few lines at a time
    assert np.array_equal(line_products(lines), whole)


@pytest.fixture
def threads() -> Iterator[list[int]]:
    before = torch.get_num_threads()
    yield [1, 2]
    torch.set_num_threads(before)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("size", [BLOCK - 1, 2 * BLOCK, 100 * BLOCK + 7])
def test_the_number_of_threads_changes_no_bit(size: int, threads: list[int]) -> None:
    tensors, found = vectors(size), []
    for count in threads:
        torch.set_num_threads(count)
        found.append((products(tensors), line_products([tensor.view(1, -1) for tensor in tensors])))
    assert torch.equal(found[0][0], found[1][0]) and np.array_equal(found[0][1], found[1][1])


def test_weights_task_vectors_and_what_a_recipe_averages() -> None:
    base, one, two = vectors(60)
    shaped = [tensor.view(6, 10) for tensor in (base, one)]
    low = Factors(two[:12].view(6, 2), two[12:32].view(2, 10), 0.5)
    sources = Sources("w", shaped[0], [shaped[1], low, None])
    models = [sources.base, *(sources.expert(i) for i in range(3))]
    updates = [sources.delta(i) for i in range(3)]
    assert np.allclose(_gram.of_weights(sources)["gram"].numpy(), exact(models), rtol=1e-9)
    assert np.allclose(_gram.of_deltas(sources)["gram"].numpy(), exact(updates), rtol=1e-9)
    for has_base, wanted in ((True, updates), (False, models)):
        setup = Setup(sources, has_base=has_base)
        sources.set_prepared(_gram.of_vectors(setup))
        assert np.allclose(_gram.gram(setup), exact(wanted), rtol=1e-9)


def test_norms_and_cosines() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([-6.0, -8.0]), torch.tensor([4.0, -3.0]), torch.zeros(2)]
    gram = products(tensors).numpy()
    assert norms(gram).tolist() == [5.0, 10.0, 5.0, 0.0]
    assert norms(np.stack([gram, 4 * gram])).tolist() == [[5.0, 10.0, 5.0, 0.0], [10.0, 20.0, 10.0, 0.0]]
    wanted = [[1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert np.allclose(cosines(gram, 1e-8), wanted) and np.abs(cosines(gram, 1e-8)).max() <= 1
    assert norms(np.array([[-1e-30]])) == 0


def test_what_is_not_finite_stays_visible() -> None:
    for bad in (float("nan"), float("inf")):
        tensors = vectors(BLOCK + 3)
        tensors[1][-1] = bad
        gram = products(tensors).numpy()
        assert not np.isfinite(gram[1]).any() and np.isfinite(gram[np.ix_([0, 2], [0, 2])]).all()
