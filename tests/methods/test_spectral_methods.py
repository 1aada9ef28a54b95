"""TSV-Merge and Iso-C against their papers, dense and from adapters, and where singular vectors are not unique."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evomerge.kernels import LinComb, LowRank
from evomerge.kernels.factors import Factors
from evomerge.kernels.sources import Update
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from tests.families import Folders, save_adapter
from tests.methods import oracles_papers as oracles
from tests.methods.oracles_papers import Array
from tests.methods.paper_cases import close, coefficients, family, off_base, prepared, run
from tests.methods.recipes import random_tensors, recipe

every_matrix = pytest.mark.parametrize("shape", [(12, 9), (10, 10), (7, 16), (1, 9)], ids=str)


def low_rank(shape: tuple[int, int], rank: int, seed: int, scale: float = 0.5) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    return Factors(up, down, scale)


def _exact(adapter: Factors) -> Array:
    return np.asarray(adapter.scale * (adapter.up.double() @ adapter.down.double()).numpy())


@every_matrix
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("alphas", [[1.0, 1.0, 1.0], [0.7, -1.3, 0.2], [0.0, 1.5, 0.0]], ids=str)
def test_tsv_m(shape: tuple[int, ...], count: int, alphas: list[float]) -> None:
    tensors, base, deltas = family(shape, count)
    wanted = base + sum(a * d for a, d in zip(alphas, oracles.tsv_m(deltas), strict=False))
    close(run("tsv_m", tensors[0], tensors[1:], alpha=alphas[:count]), wanted)


@pytest.mark.parametrize("shape", [(11,), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("name", ["tsv_m", "iso_c"])
def test_what_is_no_matrix_is_averaged(name: str, shape: tuple[int, ...]) -> None:
    tensors, base, deltas = family(shape)
    close(run(name, tensors[0], tensors[1:], alpha=0.8), base + 0.8 * sum(deltas) / 3)


@pytest.mark.parametrize("name", ["tsv_m", "iso_c"])
def test_matrices_outside_the_layers_are_averaged_where_asked(name: str) -> None:
    tensors, base, deltas = family((12, 9))
    same = run(name, tensors[0], tensors[1:], depth=None, alpha=0.8)
    linear = run(name, tensors[0], tensors[1:], {"outer": "linear"}, depth=None, alpha=0.8)
    assert torch.equal(same, run(name, tensors[0], tensors[1:], {"outer": "linear"}, alpha=0.8))
    close(linear, base + 0.8 * sum(deltas) / 3)
    assert not torch.allclose(same, linear)


def test_tsv_m_of_more_experts_than_rows_is_the_base() -> None:
    tensors, _, _ = family((3, 8), 5)
    assert torch.equal(run("tsv_m", tensors[0], tensors[1:], alpha=1.0), tensors[0])


def test_tsv_m_of_one_expert_is_that_expert() -> None:
    tensors, _, _ = family((13, 7), 1)
    assert torch.allclose(run("tsv_m", tensors[0], tensors[1:], alpha=1.0), tensors[1], atol=1e-6)


def test_tsv_m_of_identical_experts_is_their_truncation() -> None:
    delta = np.random.default_rng(0).normal(size=(12, 9))
    left, values, right = np.linalg.svd(delta.astype(np.float32).astype(np.float64))
    base, experts = off_base([delta] * 3)
    close(run("tsv_m", base, experts, alpha=1.0), left[:, :3] * values[:3] @ right[:3])


def test_tsv_m_does_not_whiten_against_an_expert_that_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    deltas = [rng.normal(size=(12, 9)), np.zeros((12, 9)), rng.normal(size=(12, 9))]
    deltas = [delta.astype(np.float32).astype(np.float64) for delta in deltas]
    base, experts = off_base(deltas)
    close(run("tsv_m", base, experts, alpha=1.0), np.asarray(sum(oracles.tsv_m(deltas))))


def test_tsv_m_directions_are_orthogonal_and_keep_their_spectrum() -> None:
    tensors, _, deltas = family((20, 15))
    setup = prepared("tsv_m", tensors[0], tensors[1:])
    directions = [setup.sources.bank(f"direction.{i}").double().numpy() for i in range(3)]
    assert abs(float((directions[0] * directions[1]).sum())) < 1e-6
    for direction, delta in zip(directions, deltas, strict=True):
        wanted = np.linalg.svd(delta, compute_uv=False)[:5]
        assert np.allclose(np.linalg.svd(direction, compute_uv=False)[:5], wanted, atol=1e-6)


@every_matrix
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_iso_c(shape: tuple[int, ...], beta: float) -> None:
    tensors, base, deltas = family(shape)
    blend = (1 - beta) * sum(deltas) + beta * oracles.iso_c(deltas)
    close(run("iso_c", tensors[0], tensors[1:], alpha=0.8, beta=beta), base + 0.8 * blend, 5e-6)


def test_iso_c_flattens_the_spectrum_and_keeps_its_sum() -> None:
    tensors, _, deltas = family((12, 9))
    direction = prepared("iso_c", tensors[0], tensors[1:]).sources.bank("direction.0").double().numpy()
    wanted = np.linalg.svd(sum(deltas), compute_uv=False)
    assert np.allclose(np.linalg.svd(direction, compute_uv=False), wanted.mean(), atol=1e-6)


def test_iso_c_of_experts_that_cancel_is_the_base() -> None:
    delta = np.random.default_rng(0).normal(size=(6, 5))
    base, experts = off_base([delta, -delta])
    assert torch.equal(run("iso_c", base, experts, alpha=1.0), base)


@pytest.mark.parametrize("shape", [(14, 9), (9, 14), (10, 10)], ids=str)
@pytest.mark.parametrize("mean", ["all", "rank"])
def test_iso_c_fills_no_null_directions(shape: tuple[int, int], mean: str) -> None:
    """Dense experts of low rank, as merged adapters are, and the adapters themselves."""
    adapters = [low_rank(shape, 2, seed) for seed in range(3)]
    deltas = [adapter.delta().double().numpy() for adapter in adapters]
    wanted = 0.5 * (sum(deltas) + oracles.iso_c([_exact(adapter) for adapter in adapters], mean == "rank"))
    base, experts = off_base(deltas)
    for updates in (experts, adapters):
        close(run("iso_c", base, updates, {"mean": mean}, alpha=1.0, beta=0.5), wanted, 2e-5)


@pytest.mark.parametrize("shape", [(14, 9), (9, 14), (10, 10)], ids=str)
@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 3, 2), (4, 4, 4), (9, 1, 2), (2, 0, 1)], ids=str)
def test_tsv_m_of_adapters_is_that_of_their_dense_experts(shape: tuple[int, int], ranks: tuple[int, ...]) -> None:
    adapters = [low_rank(shape, rank, seed, 0.5 + seed) for seed, rank in enumerate(ranks)]
    base, alphas = random_tensors(shape, 0)[0], [0.7, 1.3, -0.4]
    wanted = base.double().numpy() + sum(
        alpha * direction for alpha, direction in zip(alphas, oracles.tsv_m([_exact(a) for a in adapters]), strict=True)
    )
    close(run("tsv_m", base, adapters, alpha=alphas), wanted, 2e-5)
    mixed: list[Update] = [base + adapters[0].delta(), *adapters[1:]]
    close(run("tsv_m", base, mixed, alpha=alphas), wanted, 2e-5)


@pytest.mark.parametrize("name", ["tsv_m", "iso_c"])
def test_adapters_are_kept_as_factors(name: str) -> None:
    base, adapters = torch.zeros(40, 30), [low_rank((40, 30), 2, seed) for seed in range(2)]
    setup = prepared(name, base, adapters)
    assert isinstance(coefficients(name, setup, alpha=1.0), LowRank)
    assert setup.sources.bank("up").shape == (40, 4) and setup.sources.bank("down").shape == (4, 30)
    assert isinstance(coefficients(name, setup, alpha=0.0), LinComb)


@pytest.mark.parametrize("name", ["tsv_m", "iso_c"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_expert_shows(name: str, value: float) -> None:
    base, expert, other = random_tensors((9, 14), 2)
    adapters = [low_rank((9, 14), 2, seed) for seed in range(2)]
    expert[3, 4] = adapters[0].up[3, 1] = value
    assert not run(name, base, [expert, other], alpha=1.0).isfinite().all()
    assert not run(name, base, adapters, alpha=1.0).isfinite().all()


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "pcb"])
def test_adapters_from_files_merge_alike_from_memory_and_from_disk(
    name: str, tmp_path: Path, folders: Callable[..., Folders]
) -> None:
    base = folders().base
    adapters = [save_adapter("llama", base, tmp_path / f"a{i}", rank=2, seed=i)[0] for i in range(2)]
    merged = recipe(name, base, adapters)
    family = Family(base, adapters)
    found = [
        fingerprint(Materializer(family, prepared=folder).tensors(merged))
        for folder in (None, tmp_path / "kept", tmp_path / "kept")
    ]
    untouched = dict(Materializer(family).tensors(merged))["model.embed_tokens.weight"]
    assert found[0] == found[1] == found[2]
    assert torch.equal(untouched, family.base.checkpoint.tensor("model.embed_tokens.weight"))


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "pcb"])
def test_experts_that_change_nothing_give_the_base(name: str) -> None:
    base = random_tensors((9, 14), 0)[0]
    untrained = Factors(torch.zeros(9, 2), torch.ones(2, 14), 1.0)
    for updates in ([None, None], [untrained, None], [base.clone(), untrained], [base.clone()] * 2):
        assert torch.equal(run(name, base, updates, alpha=1.0), base)
