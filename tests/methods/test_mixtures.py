"""Every method on mixtures of experts: in place, and as it would be exported."""

from dataclasses import replace

import pytest
import torch

from evomerge import methods
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from tests.families import Folders
from tests.methods import recipes
from tests.models.mixtures import family_of, mixture

pytestmark = pytest.mark.filterwarnings("ignore")
EXPERTS = ("e0", "e1", "e2")
METHODS = [name for name in methods.names() if not methods.adapters_only(methods.load(name))]


@pytest.fixture(scope="module", params=["mixtral", "gpt_oss"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """One with a tensor for each matrix of each expert, one with stacks of transposed matrices."""
    root = tmp_path_factory.mktemp(request.param)
    for seed, name in enumerate(("base", *EXPERTS)):
        mixture(request.param, root / name, seed)
    return family_of(root, *EXPERTS)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", METHODS)
def test_a_live_model_is_the_exported_one(name: str, family: Family) -> None:
    recipe = replace(recipes.some(name, Folders(family.ref, tuple(family.experts))), out_dtype="float32")
    materializer, live = Materializer(family, compiled=False), load_model(family.base.folder, dtype="float32")
    materializer.write(recipe, live)
    places = family.base.live_tensors(live).items()
    written = fingerprint((name, place.tensor()) for name, place in places)
    assert written == fingerprint(materializer.tensors(recipe, torch.float32))
    changed = (
        replace(recipe, seed=4) if methods.exactness(recipe.method, recipe.options) == "distribution-only" else None
    )
    if changed:
        materializer.write(changed, live)
        materializer.write(recipe, live)
        assert written == fingerprint((name, place.tensor()) for name, place in places)


def test_experts_of_a_layer_drop_different_elements(family: Family) -> None:
    """Masks depend on a tensor's place, so the experts of a stack do not share one."""
    ref = next(iter(family.experts))
    folders = Folders(family.ref, (ref,))
    recipe = recipes.recipe("dare_linear", folders.base, folders.experts, (1.0,), density=0.5)
    merged = dict(Materializer(family, compiled=False).tensors(recipe))
    names = [name for name in merged if "experts.0.w1" in name or "experts.1.w1" in name]
    if not names:
        pytest.skip("one tensor holds all experts")
    kept = [merged[name] != family.base.tensor(name) for name in names]
    assert not any(torch.equal(kept[0], other) for other in kept[1:])
    assert all(0.3 < float(mask.float().mean()) < 0.7 for mask in kept)
