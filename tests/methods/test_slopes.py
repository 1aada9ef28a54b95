"""The slope of a loss in every gene of every method: hooks in a live model against central differences of the loss."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evomerge import methods
from evomerge.errors import CandidateError
from evomerge.merging.materializer import Materializer
from evomerge.merging.slope_hooks import SlopeHooks, Sums
from evomerge.merging.tangents import recipe_tangents
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import Recipe
from tests.families import Folders, with_adapters
from tests.methods import recipes

STEP = 1e-3  # of central differences, in units of a gene's range
NOISE = 1e-4  # of a difference: weights are rounded to fp32 before the loss is computed in float64
IDS = torch.randint(0, 37, (3, 9), generator=torch.Generator().manual_seed(1))
Open = Callable[..., tuple[Folders, Materializer]]


def live(materializer: Materializer) -> Any:
    return load_model(materializer.family.base.folder, dtype="float32").double()


def loss(model: Any) -> Tensor:
    """The negative log-likelihood of a text in float64."""
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    logits = model(input_ids=IDS, **more).logits
    assert logits.dtype == torch.float64
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


def embeddings(model: Any) -> list[nn.Module]:
    weight = model.get_input_embeddings().weight
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is weight]


def slopes(materializer: Materializer, recipe: Recipe, model: Any) -> Sums:
    genes = [gene.name for gene in methods.load(recipe.method).GENES]
    tangents = list(recipe_tangents(materializer, recipe, genes))
    base = materializer.family.base
    materializer.write(recipe, model)
    with SlopeHooks(model, embeddings(model), base, tangents) as hooks:
        loss(model).backward()
    return hooks.sums


def moved(recipe: Recipe, gene: methods.Gene, expert: int | None, step: float) -> Recipe:
    if expert is None:
        return replace(recipe, settings={**recipe.settings, gene.name: float(recipe.settings[gene.name]) + step})
    (part,) = recipe.slices
    sources = list(part.sources)
    value = float(sources[expert].settings[gene.name]) + step
    sources[expert] = replace(sources[expert], settings={**sources[expert].settings, gene.name: value})
    return replace(recipe, slices=(replace(part, sources=tuple(sources)),))


def ordinary(name: str, folders: Folders) -> Recipe:
    """A recipe with every value inside its range, and with fixed signs where that is offered."""
    method = methods.load(name)
    genes = [gene for gene in method.GENES if gene.name != "weight" and gene.default in (gene.low, gene.high)]
    inside = {gene.name: gene.low + 0.37 * (gene.high - gene.low) for gene in genes}
    return recipes.some(name, folders, options={"sign": "unweighted"} if "sign" in method.OPTIONS else {}, **inside)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", methods.names())
def test_slopes_are_the_central_differences_of_the_loss(name: str, kind: str, open_family: Open) -> None:
    folders, materializer = open_family(kind, method=name)
    method, recipe, model = methods.load(name), ordinary(name, folders), live(materializer)
    found = slopes(materializer, recipe, model)
    for gene in (gene for gene in method.GENES if gene.slope):
        for expert in range(recipes.count(name)) if gene.per == "expert" else (None,):
            step, sides = STEP * (gene.high - gene.low), []
            for sign in (1, -1):
                materializer.write(moved(recipe, gene, expert, sign * step), model)
                with torch.no_grad():
                    sides.append(loss(model).item())
            wanted = (sides[0] - sides[1]) / (2 * step)
            values = found.get((gene.name, expert))
            slope = 0.0 if values is None else float(values.sum())
            assert slope == pytest.approx(wanted, rel=0.02, abs=NOISE), (gene.name, expert)
    constant = name == "ramplus_tl"  # it scales what a single expert has changed, and these change the same elements
    assert any(values.any() for values in found.values()) == (any(g.slope for g in method.GENES) and not constant)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("adapters", [False, True], ids=["checkpoints", "adapters"])
def test_slopes_of_each_tensor_are_those_of_autograd(
    kind: str, adapters: bool, open_family: Open, tmp_path: Any
) -> None:
    """Tied tensors, biases, norms and embeddings are among the tensors of the checkpoints."""
    folders, materializer = open_family(kind)
    if adapters:
        folders = with_adapters(kind, folders, tmp_path)
        materializer = Materializer(Family(folders.base, folders.experts))
    recipe, model = recipes.some("task_arithmetic", folders), live(materializer)
    found = slopes(materializer, recipe, model)
    base = materializer.family.base
    model.requires_grad_()
    loss(model).backward()
    for place, merge in enumerate(materializer.tensor_merges(recipe)):
        path = base.parameter[merge.name]
        gradient = base.destination[merge.name].gradient(path, model.get_parameter(path).grad)
        for expert in range(3):
            wanted = float((gradient * merge.setup.sources.delta(expert).double()).sum())
            assert found["weight", expert][place] == pytest.approx(wanted, rel=1e-4, abs=1e-7), merge.name


def test_the_model_is_left_as_it_was(open_family: Open) -> None:
    folders, materializer = open_family("llama")
    recipe, model = recipes.some("ties", folders), live(materializer)
    first = slopes(materializer, recipe, model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    second = slopes(materializer, recipe, model)
    assert all((first[owner] == second[owner]).all() for owner in first)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad and bool((parameter == before[name]).all())
    assert not any(module._forward_hooks for module in model.modules())


def test_adapters_need_no_gradient_of_a_weight(open_family: Open, tmp_path: Any) -> None:
    folders = with_adapters("llama", open_family("llama")[0], tmp_path)
    materializer = Materializer(Family(folders.base, folders.experts))
    model, recipe = live(materializer), recipes.some("task_arithmetic", folders)
    tangents = list(recipe_tangents(materializer, recipe, ["weight"]))
    base = materializer.family.base
    with SlopeHooks(model, embeddings(model), base, tangents) as hooks:
        assert not any(parameter.requires_grad for parameter in model.parameters())
        loss(model).backward()
    assert hooks.sums


def test_a_pass_that_fails_adds_nothing(open_family: Open) -> None:
    folders, materializer = open_family("llama")
    model, recipe = live(materializer), recipes.some("task_arithmetic", folders)
    tangents = list(recipe_tangents(materializer, recipe, ["weight"]))
    base = materializer.family.base
    with SlopeHooks(model, embeddings(model), base, tangents) as hooks:
        loss(model).backward()
        before = {owner: values.copy() for owner, values in hooks.sums.items()}
        with pytest.raises(RuntimeError, match="out of memory"), hooks.all_or_nothing():
            loss(model).backward()
            raise RuntimeError("out of memory")
        assert all((hooks.sums[owner] == before[owner]).all() for owner in before)


@pytest.mark.parametrize("name", methods.names())
def test_values_at_the_ends_of_their_ranges_have_slopes(name: str, open_family: Open) -> None:
    """Weights of 0 are where most methods change their rule, and a weight below 0 is refused by some."""
    folders, materializer = open_family("llama", method=name)
    method = methods.load(name)
    genes = [gene for gene in method.GENES if gene.slope]
    ends = {gene.name: gene.low for gene in genes if gene.name != "weight"}
    recipe = recipes.recipe(name, folders.base, folders.experts[: recipes.count(name)], weights=(0.5, 0.0, 0.2), **ends)
    for tensor in recipe_tangents(materializer, recipe, [gene.name for gene in genes]):
        assert tensor.tangents


@pytest.mark.sampled(6)
@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)], ids=["an expert", "the base"])
@pytest.mark.parametrize("name", [name for name in methods.names() if "weight" in methods.load(name).PER_EXPERT])
def test_the_points_of_the_base_and_of_an_expert_have_slopes(
    name: str, weights: tuple[float, ...], open_family: Open
) -> None:
    """A method may be linear there and elementwise beside it; slopes at the kink are those of the side in the range."""
    folders, materializer = open_family("llama", method=name)
    count = recipes.count(name)
    recipe = recipes.recipe(name, folders.base, folders.experts[:count], weights=weights[:count])
    try:
        model = live(materializer)
        materializer.write(recipe, model)
    except CandidateError:
        pytest.skip("weights that sum to 0 are refused")
    found = slopes(materializer, recipe, model)
    assert all(np.isfinite(values).all() for values in found.values())
