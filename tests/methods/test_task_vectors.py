"""Masks and scales of the sparsifying methods, and the shortcut for one expert alone."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.kernels import Consensus, LinComb, Sources
from evomerge.kernels.masks import mask_keys, mask_threshold
from evomerge.kernels.voting import Drop, Keep, Trim
from evomerge.methods import Genes, Setup, State, _drops, _magnitudes
from evomerge.methods._task_vectors import (
    drop,
    dropped_scale,
    inverse_density,
    merge,
    rescaling,
    trim,
    trimmed_count,
    trimmed_scale,
    unscaled,
)


def spread(size: int, seed: int = 0) -> Tensor:
    """Values over six orders of magnitude, where the order of a plain sum shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * 10 ** (6 * torch.rand(size, generator=generator) - 3)


def setup(deltas: list[Tensor], **options: str) -> Setup:
    sources = Sources("w", torch.zeros_like(deltas[0]), deltas)
    found = Setup(sources, options, seed=3)
    state: State = _magnitudes.prepare(sources) | _drops.prepare(sources, 3)
    sources.set_prepared(state | (_magnitudes.prepare_model(found) if options.get("trim") == "model" else {}))
    return found


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.77, 0.999, 0.12345])
def test_trim_keeps_the_floor_of_the_share(density: float) -> None:
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    mask = trim(setup([delta]), 0, density)
    assert isinstance(mask, Trim)
    assert (delta.abs() >= mask.low).sum() == max(1, int(density * 1000)) == trimmed_count(setup([delta]), density)


def test_trim_keeps_one_element_at_least_and_every_tie() -> None:
    found = setup([torch.tensor([1.0, -3.0, 3.0, 2.0])])
    assert trim(found, 0, 1e-9) == Trim(3.0)
    assert trim(found, 0, 0.25) == Trim(3.0)
    assert trim(found, 0, 0.75) == Trim(2.0)


@pytest.mark.parametrize("options", [{}, {"trim": "model"}], ids=["tensor", "model"])
@pytest.mark.parametrize("density", [1.0, 1.5])
def test_a_density_of_one_or_more_masks_nothing(density: float, options: dict[str, str]) -> None:
    vectors = setup([torch.ones(3)], **options)
    assert trim(vectors, 0, density) == Keep() == drop(vectors, 0, density)
    for scale in (trimmed_scale, dropped_scale, inverse_density, unscaled):
        assert scale(vectors, 0, density) == 1.0


@pytest.mark.parametrize("options", [{}, {"trim": "model"}], ids=["tensor", "model"])
@pytest.mark.parametrize("density", [0.0, -0.5])
def test_a_density_of_zero_or_less_keeps_nothing(density: float, options: dict[str, str]) -> None:
    vectors = setup([torch.ones(3)], **options)
    assert drop(vectors, 0, density) == Drop(0.0)
    assert trim(vectors, 0, density) == Trim(math.inf)
    for scale in (trimmed_scale, dropped_scale, inverse_density, unscaled):
        assert scale(vectors, 0, density) == 1.0


@pytest.mark.parametrize("density", [0.1, 0.3337])
def test_l1_scales_restore_the_norm(density: float) -> None:
    delta = spread(5000)
    vectors, whole = setup([delta]), delta.double().abs().sum().item()
    mask = trim(vectors, 0, density)
    assert isinstance(mask, Trim)
    kept = delta[delta.abs() >= mask.low].double().abs().sum().item()
    assert trimmed_scale(vectors, 0, density) == pytest.approx(whole / kept, rel=1e-6)
    numbers = next(part for _, part in _drops.random_numbers(delta, *mask_keys(3, "w", 1)))
    kept = delta[numbers < mask_threshold(density)].double().abs().sum().item()
    assert dropped_scale(vectors, 0, density) == pytest.approx(whole / kept, rel=1e-6)
    assert inverse_density(vectors, 0, density) == 1 / density


def test_l1_scales_leave_vanishing_vectors_alone() -> None:
    for delta in (torch.zeros(8), torch.full((8,), 1e-9)):
        vectors = setup([delta])
        for density in (0.5, 0.1234):
            assert trimmed_scale(vectors, 0, density) == 1.0 == dropped_scale(vectors, 0, density)


def test_the_recipe_chooses_the_rescaling() -> None:
    genes = {rescale: Genes({"rescale": rescale}, (), {}) for rescale in (True, False)}
    vectors = {by: setup([torch.ones(3)], rescale_by=by) for by in ("l1", "inv_density")}
    assert rescaling(vectors["l1"], genes[True]) is dropped_scale
    assert rescaling(vectors["inv_density"], genes[True]) is inverse_density
    assert rescaling(vectors["l1"], genes[False]) is unscaled is rescaling(vectors["inv_density"], genes[False])


def assembled(vectors: Setup, weights: tuple[float, ...], density: float, mask: Any = drop) -> Consensus | LinComb:
    rows = tuple({"weight": weight, "density": density} for weight in weights)
    return merge(vectors, Genes({"normalize": True, "lambda": 0.7}, rows, {}), mask, unscaled, elect=True)


def test_every_expert_has_a_key_of_its_own_and_only_drops_have_keys() -> None:
    vectors = setup([torch.ones(3), torch.ones(3)])
    found = assembled(vectors, (0.5, 0.5), 0.5)
    assert isinstance(found, Consensus)
    assert found.words == (*mask_keys(3, "w", 2), mask_threshold(0.5), mask_threshold(0.5))
    assert len(set(mask_keys(3, "w", 2))) == 3
    trimmed = assembled(vectors, (0.5, 0.5), 0.5, trim)
    assert isinstance(trimmed, Consensus) and trimmed.words == ()


def test_one_expert_alone_and_unmasked_is_a_combination_of_two_models() -> None:
    vectors = setup([torch.ones(3), torch.ones(3)])
    for mask in (drop, trim):
        found = assembled(vectors, (0.0, 0.5), 1.0, mask)
        assert isinstance(found, LinComb) and found.experts == (0.0, 0.7) and found.base == pytest.approx(0.3)
        assert isinstance(assembled(vectors, (0.0, 0.5), 0.9, mask), Consensus)
        assert isinstance(assembled(vectors, (0.1, 0.5), 1.0, mask), Consensus)
    unweighted = setup([torch.ones(3), torch.ones(3)], sign="unweighted")  # the idle expert still elects
    assert isinstance(assembled(unweighted, (0.0, 0.5), 1.0), Consensus)
