"""DARE draws its masks, so what must agree with mergekit's is the distribution."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from tests.parity.compare import tensors
from tests.parity.families import Family
from tests.parity.oracle import Oracle
from tests.parity.recipes import Recipe, entry, recipe

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
Tensors = dict[str, torch.Tensor]
SEEDS = 32
# The L1 rescale is biased by about 1/(elements kept): only tensors that are large enough have a known mean.
LARGE = 500


def recipe_of(method: str, family: Family, density: float, *weights: float, **parameters: object) -> Recipe:
    pairs = zip(family.experts, weights, strict=False)
    entries = [entry(path, weight=weight, density=density) for path, weight in pairs]
    return recipe(method, family.base, entries, **parameters)


def seeded(merge: Recipe, seed: int) -> Recipe:
    return merge | {"evomerge": {"schema": 1, "seed": seed}}


def shifts(folder: Path, base: Tensors) -> Tensors:
    """What a merge added to the base, for the large tensors."""
    merged = tensors(folder)
    return {name: merged[name] - base[name] for name in base if base[name].numel() >= LARGE}


def task_vector(family: Family, base: Tensors, *weights: float) -> Tensors:
    total = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    for path, weight in zip(family.experts, weights, strict=False):
        for name, tensor in tensors(Path(path)).items():
            total[name] += weight * (tensor - base[name])
    return total


def moments(samples: Iterable[Tensors], direction: Tensors) -> dict[str, torch.Tensor]:
    """Per tensor and sample: the share of the task vector that was added, and its energy."""
    rows = list(samples)
    return {
        name: torch.stack(
            [
                torch.stack([(row[name] * d).sum() / d.square().sum() for row in rows]),
                torch.stack([row[name].square().sum() / d.square().sum() for row in rows]),
            ]
        ).double()
        for name, d in ((name, direction[name]) for name in rows[0])
    }


def assert_same_mean(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
    """Two samples of [moment, seed]; five standard errors, over a few dozen comparisons."""
    error = (ours.var(dim=1) / ours.shape[1] + theirs.var(dim=1) / theirs.shape[1]).sqrt()
    score = (ours.mean(dim=1) - theirs.mean(dim=1)).abs() / error
    assert (score < 5).all(), f"{name}: z = {score.tolist()}, {ours.mean(dim=1)} and {theirs.mean(dim=1)}"


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_kept_share_and_the_scale(
    density: float, rescale: bool, family: Families, ours: Callable[[Recipe], Path]
) -> None:
    members = family("llama")
    base, weight = tensors(Path(members.base)), 0.7
    direction = task_vector(members, base, weight)
    merge = recipe_of("dare_linear", members, density, weight, rescale=rescale)
    for name, shift in shifts(ours(seeded(merge, 1)), base).items():
        kept, whole = shift != 0, direction[name]
        sigma = (density * (1 - density) / kept.numel()) ** 0.5
        assert abs(kept.double().mean().item() - density) < 5 * sigma, name
        scale = (whole.abs().sum() / whole[kept].abs().sum()).item() if rescale else 1.0
        assert torch.allclose(shift[kept], scale * whole[kept], rtol=1e-4, atol=1e-6), name


def test_the_mean_over_seeds_is_task_arithmetic(family: Families, ours: Callable[[Recipe], Path]) -> None:
    members = family("llama")
    base, weights = tensors(Path(members.base)), (0.6, 0.3, -0.5)
    direction = task_vector(members, base, *weights)
    merge = recipe_of("dare_linear", members, 0.5, *weights)
    rows = [shifts(ours(seeded(merge, seed)), base) for seed in range(SEEDS)]
    for name in rows[0]:
        stack = torch.stack([row[name] for row in rows]).double()
        error = stack.std(dim=0) / SEEDS**0.5
        score = (stack.mean(dim=0) - direction[name]) / error
        # Were the standard errors exact, the scores would have unit variance; they have a little more.
        assert score.square().mean().sqrt() < 1.25, name
        assert abs(score.mean().item()) < 5 / score.numel() ** 0.5, name


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("options", [{}, {"normalize": True, "lambda_": 1.3}, {"rescale": False}])
@pytest.mark.parametrize("density", [0.2, 0.7])
def test_moments_equal_mergekits(
    method: str,
    options: dict[str, object],
    density: float,
    family: Families,
    oracle: Oracle,
    ours: Callable[[Recipe], Path],
) -> None:
    members = family("llama")
    base, weights = tensors(Path(members.base)), (0.6, 0.3, 0.5)
    direction = task_vector(members, base, *weights)
    merge = recipe_of(method, members, density, *weights, **options)
    mine = moments((shifts(ours(seeded(merge, seed)), base) for seed in range(16)), direction)
    theirs = moments((shifts(oracle.merge(merge, "--random-seed", str(seed)), base) for seed in range(16)), direction)
    for name in mine:
        assert_same_mean(mine[name], theirs[name], name)


def test_two_copies_of_one_expert_draw_independent_masks(
    family: Families, tmp_path: Path, ours: Callable[[Recipe], Path]
) -> None:
    """With shared masks no element would get exactly one of two equal deltas."""
    members = family("llama")
    base = tensors(Path(members.base))
    copy = tmp_path / "copy"
    shutil.copytree(members.experts[0], copy)
    entries = [entry(path, weight=0.5, density=0.5) for path in (members.experts[0], str(copy))]
    merge = recipe("dare_linear", members.base, entries, rescale=False)
    direction = task_vector(members, base, 1.0)
    for name, shift in shifts(ours(seeded(merge, 3)), base).items():
        half = ((shift / direction[name] - 0.5).abs() < 0.01).double().mean().item()
        assert abs(half - 0.5) < 5 * 0.5 / shift.numel() ** 0.5, name
