"""PCB against the authors' three variants, and the order statistics over a whole model that it needs."""

import numpy as np
import pytest
import torch

from evomerge.kernels import Sources
from evomerge.methods import WholeModel
from evomerge.methods._order_statistics import order_statistics
from tests.methods import oracles_papers as oracles
from tests.methods.paper_cases import SHAPES, close, family, prepared, run
from tests.methods.recipes import random_tensors

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every_shape
@pytest.mark.parametrize("variant", ["main", "es", "vision"])
@pytest.mark.parametrize("ratio", ["0.05", "0.1", "0.2"])
def test_pcb(shape: tuple[int, ...], variant: str, ratio: str) -> None:
    tensors, base, deltas = family(shape)
    directions = oracles.pcb(np.stack([delta.ravel() for delta in deltas]), float(ratio), variant)
    wanted = base + (np.array([1.3, 0.6, -0.8]) @ directions).reshape(shape)
    options = {"variant": variant, "ratio": ratio}
    close(run("pcb", tensors[0], tensors[1:], options, alpha=[1.3, 0.6, -0.8]), wanted, 1e-5)


@pytest.mark.parametrize("variant", ["main", "es", "vision"])
def test_pcb_counts_over_the_whole_model(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.methods.pcb.BLOCK", 100)
    shapes = [(31, 17), (40,), (13, 7)]
    tensors = [random_tensors(shape, 3) for shape in shapes]
    tensors[1] = [tensors[1][0], *(tensors[1][0] + 5 * (expert - tensors[1][0]) for expert in tensors[1][1:])]
    held = [Sources(f"{i}", base, experts) for i, (base, *experts) in enumerate(tensors)]
    flat = np.stack([np.concatenate([s.delta(i).flatten().double().numpy() for s in held]) for i in range(3)])
    sums = np.split(oracles.pcb(flat, 0.2, variant).sum(axis=0), np.cumsum([s.shape.numel() for s in held])[:-1])
    whole = WholeModel(lambda: held)
    for (base, *experts), wanted in zip(tensors, sums, strict=True):
        out = run("pcb", base, experts, {"variant": variant, "ratio": "0.2"}, alpha=1.0, whole_model=whole)
        close(out - base, wanted.reshape(base.shape), 1e-5)
    assert len(whole.memo) == 1, "the model is counted once"


def test_pcb_keeps_about_its_share_and_stays_between_the_experts() -> None:
    tensors, _, _ = family((50, 40))
    setup = prepared("pcb", tensors[0], tensors[1:], {"ratio": "0.1"})
    directions = torch.stack([setup.sources.bank(f"direction.{i}") for i in range(3)])
    assert [(direction != 0).sum().item() for direction in directions] == [199] * 3  # the threshold itself maps to 0
    largest = torch.stack([setup.sources.delta(i) for i in range(3)]).abs().amax(0)
    assert (directions.sum(0).abs() <= largest + 1e-6).all()


def test_pcb_of_a_constant_change_is_finite() -> None:
    tensors, _, _ = family((13, 7), 2)
    out = run("pcb", tensors[0], [tensors[0] + 0.5, tensors[1], tensors[0]], alpha=1.0)
    assert out.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_pcb_names_the_tensor_that_is_broken(value: float) -> None:
    tensors = [random_tensors((31, 17), 3), random_tensors((13, 7), 3)]
    tensors[1][2][4, 4] = value
    whole = WholeModel(lambda: [Sources("w", base, experts) for base, *experts in tensors])
    first, second = (run("pcb", base, experts, alpha=1.0, whole_model=whole) for base, *experts in tensors)
    assert first.isfinite().all()
    assert (~second.isfinite()).nonzero().tolist() == [[4, 4]]


def test_order_statistics_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 5000, generator=generator) * 10 ** (6 * torch.rand(2, 5000, generator=generator) - 3)
    rows[0, :1000], rows[1, :10] = 0.25, float("-inf")
    rows[0, 1000:1010] = -0.0
    places = [0, 5, 17, 1200, 2500, 2501, 4000, 4999]
    for block in (499, 999, 5000):
        found = order_statistics(lambda size=block: rows.split(size, dim=1), lambda d: places)
        assert torch.equal(found, rows.sort(dim=1).values[:, places].double())
    assert order_statistics(lambda: [torch.tensor([[3.5]])], lambda d: [0, d - 1]).tolist() == [[3.5, 3.5]]
