"""Slopes in a mixture of experts: parameters of stacks are differentiated once, for all stored tensors in them."""

from pathlib import Path

import pytest
import torch

from evomerge.merging.materializer import Materializer
from evomerge.recipes.recipe import Source, recipe_of_models
from tests.methods.test_slopes import live, loss, slopes
from tests.models.mixtures import family_of, mixture
from tests.models.test_mixture_adapters import train

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "qwen3_moe"])
@pytest.mark.parametrize("adapter", [False, True], ids=["checkpoint", "adapter"])
def test_slopes_are_those_of_autograd(kind: str, adapter: bool, tmp_path: Path) -> None:
    base = mixture(kind, tmp_path / "base")
    if adapter:
        listed = ["experts.gate_up_proj", "experts.down_proj"]
        train(base, tmp_path / "a", target_modules=["q_proj"], target_parameters=listed)
    else:
        mixture(kind, tmp_path / "e0", 1)
    family = family_of(tmp_path, *([] if adapter else ["e0"]), adapter="a" if adapter else None)
    (ref,) = family.experts
    recipe = recipe_of_models("task_arithmetic", family.ref, (Source(ref, {"weight": 0.3}),), {})
    materializer = Materializer(family, compiled=False)
    model = live(materializer)
    model.set_experts_implementation("eager")  # the grouped one has no float64
    found = slopes(materializer, recipe, model)["weight", 0]
    model.requires_grad_()
    loss(model).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for number, (name, place) in enumerate(family.base.destination.items()):
        if not family.experts[ref].touches(place):
            assert found[number] == 0
            continue
        update, stored = family.update(ref, name), family.base.tensor(name)
        delta = update - stored if isinstance(update, torch.Tensor) else update.delta()  # type: ignore[union-attr]
        gradient = sum(place.gradient(path, gradients[path]) for path in place.paths)  # type: ignore[misc]
        assert found[number] == pytest.approx(float((gradient * delta).sum()), rel=1e-4, abs=1e-6), name
