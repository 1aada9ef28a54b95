"""What every merge method must do; each file of evomerge/methods is a case by being there."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evomerge import methods
from evomerge.errors import CandidateError
from evomerge.kernels.factors import Factors
from evomerge.kernels.sources import Update
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.live_model import load_model
from evomerge.recipes import dump_recipe, load_recipe
from evomerge.recipes.recipe import ModelRef, Recipe
from tests.families import Folders
from tests.methods.recipes import (
    at_base,
    count,
    has_base,
    merge,
    one_hot,
    random_tensors,
    recipe,
    selects,
    some,
    weighted,
)

Open = Callable[..., tuple[Folders, Materializer]]
SHAPES = [(1,), (7,), (1, 5), (13, 3), (2, 3, 5), (257, 65)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Their weights are shares among experts, none of which the base can have; a copy is of one model, never the base.
SHARES = {"nuslerp", "multislerp", "passthrough"}
# Only an ε above every |δ| leaves nothing of these, which is no value to search.
THRESHOLD_OF_ALL = {"ram", "ramplus_tl"}

every_method = pytest.mark.parametrize("name", methods.names())
full_formats = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def bits(materializer: Materializer, merged: Recipe, dtype: str = "float32") -> str:
    return fingerprint(materializer.tensors(merged, DTYPES[dtype]))


def stored(materializer: Materializer, ref: ModelRef, dtype: str) -> str:
    family = materializer.family
    if ref.adapter:  # what its factors add to the base, as the plainest method writes it
        return bits(materializer, recipe("task_arithmetic", family.ref, [ref], [1.0]), dtype)
    held = load_model(Path(ref.path), dtype=dtype).state_dict()
    return fingerprint((name, held[parameter]) for name, parameter in family.base.parameter.items())


@every_method
def test_declares_known_parameters_with_sane_ranges(name: str) -> None:
    method = methods.load(name)
    assert len({gene.name for gene in method.GENES}) == len(method.GENES)
    for gene in method.GENES:
        assert gene.name in (method.PER_EXPERT if gene.per == "expert" else method.SHARED)
        assert gene.low <= gene.default <= gene.high and gene.low < gene.high
        assert gene.base is None or gene.low <= gene.base <= gene.high or name in THRESHOLD_OF_ALL
    genes = {gene.name for gene in method.GENES}
    required = [key for values in (method.SHARED, method.PER_EXPERT) for key, value in values.items() if value is None]
    assert genes.issuperset(required), "a search could not give a required parameter"
    assert has_base(name) or name in SHARES, "no value returns the base, which frozen groups need"
    assert set(method.BASE) <= set(method.PER_EXPERT)
    assert 1 <= method.EXPERTS[0] <= method.EXPERTS[1]
    assert all(values for values in method.OPTIONS.values())
    assert method.EXACTNESS in ("exact", "frozen-linear", "distribution-only", "native")


@pytest.mark.parametrize("name", [name for name in methods.names() if has_base(name)])
@full_formats
def test_neutral_genes_give_the_base_to_the_bit(name: str, dtype: str, open_family: Open) -> None:
    folders, materializer = open_family(dtype=dtype, method=name)
    assert bits(materializer, at_base(name, folders), dtype) == stored(materializer, folders.base, dtype)


every_selecting = pytest.mark.parametrize("name", [name for name in methods.names() if selects(name)])


@every_selecting
@full_formats
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_one_hot_is_the_expert_to_the_bit(name: str, dtype: str, kind: str, open_family: Open) -> None:
    folders, materializer = open_family(kind, dtype, method=name)
    place = count(name) - 1
    merged = one_hot(name, folders, place)
    assert bits(materializer, merged, dtype) == stored(materializer, folders.experts[place], dtype)


@pytest.mark.sampled(11)
@every_method
def test_candidates_in_a_live_model_do_not_depend_on_the_last_one(name: str, open_family: Open) -> None:
    folders, materializer = open_family(method=name)
    model = load_model(Path(folders.base.path), dtype="float32")
    last = count(name) - 1
    other = one_hot(name, folders, last) if selects(name) else at_base(name, folders, scale=0.5)
    first, second = some(name, folders), other

    def written(candidate: Recipe) -> str:
        materializer.write(candidate, model)
        return fingerprint(model.named_parameters())

    found = [written(candidate) for candidate in (first, second, first)]
    assert found[0] == found[2] != found[1]


@every_method
def test_a_fresh_process_state_gives_the_same_bits(name: str, open_family: Open) -> None:
    folders, materializer = open_family(method=name)
    materializer2 = Materializer(materializer.family)
    bits(materializer2, one_hot(name, folders, 0))  # other candidates first: what is prepared must not depend on them
    assert bits(materializer, some(name, folders)) == bits(materializer2, some(name, folders))


@pytest.mark.sampled(11)
@every_method
def test_leaves_the_files_of_the_models_alone(name: str, open_family: Open) -> None:
    folders, materializer = open_family(method=name)
    files = [
        file for ref in (folders.base, *folders.experts) for file in Path(ref.adapter or ref.path).glob("*model.s*")
    ]
    before = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    materializer.write(some(name, folders), load_model(Path(folders.base.path), dtype="float32"))
    aliased = {n: materializer.family.base.checkpoint.tensor(n) for n in materializer.family.base.parameter}
    assert fingerprint(aliased.items()) == stored(materializer, folders.base, "float32")
    assert before == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.sampled(11)
@every_method
def test_sharding_changes_nothing(name: str, open_family: Open) -> None:
    whole, shards = open_family(method=name), open_family(shard="2KB", method=name)
    assert len(list(Path(shards[0].base.path).glob("*.safetensors"))) > 3
    assert bits(whole[1], some(name, whole[0])) == bits(shards[1], some(name, shards[0]))


@pytest.mark.sampled(11)
@every_method
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_writes_any_dtype_with_one_rounding(name: str, dtype: str, open_family: Open) -> None:
    folders, materializer = open_family(dtype=dtype, method=name)
    model = load_model(Path(folders.base.path), dtype=dtype)
    materializer.write(some(name, folders), model)
    exact = dict(materializer.tensors(some(name, folders)))
    for parameter, tensor in model.named_parameters():
        assert exact[parameter].dtype == torch.float32
        assert torch.equal(tensor, exact[parameter].to(DTYPES[dtype]))


@every_method
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
def test_any_shape_and_stored_dtype(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    base, *experts = random_tensors(shape, count(name), dtype)
    copies = [tensor.clone() for tensor in (base, *experts)]
    out = merge(name, base, experts)
    assert out.shape == base.shape and out.dtype == torch.float32 and torch.isfinite(out).all()
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(copies, (base, *experts), strict=True))


@every_method
def test_a_strided_tensor_merges_like_its_contiguous_copy(name: str) -> None:
    wide = [torch.stack([tensor, tensor]) for tensor in random_tensors((33, 20), count(name))]
    strided = [tensor.permute(2, 1, 0)[:, :, 0] for tensor in wide]
    plain = [tensor.contiguous() for tensor in strided]
    assert not strided[0].is_contiguous()
    assert torch.equal(merge(name, strided[0], strided[1:]), merge(name, plain[0], plain[1:]))


@pytest.mark.sampled(11)
@every_method
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    base, *experts = random_tensors((300, 231), count(name))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(merge(name, base, experts))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@every_method
def test_the_order_of_other_tensors_changes_no_bit(name: str) -> None:
    base, *experts = random_tensors((40, 11), count(name))
    alone = merge(name, base, experts)
    merge(name, experts[0], [base, *experts[1:]], tensor="another.weight")
    torch.manual_seed(99)
    assert torch.equal(alone, merge(name, base, experts))


@every_method
def test_a_recipe_survives_its_yaml(name: str, tmp_path: Path, folders: Callable[..., Folders]) -> None:
    found = folders(method=name)
    for merged in (some(name, found), one_hot(name, found, 0), at_base(name, found)):
        file = tmp_path / "recipe.yaml"
        file.write_text(dump_recipe(merged))
        again = load_recipe(file)
        assert again.key() == merged.key() and again == merged
        assert dump_recipe(again) == file.read_text()


@pytest.mark.sampled(11)
@every_method
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_expert_is_a_failed_candidate(name: str, value: float, open_family: Open) -> None:
    folders, materializer = open_family(method=name)
    model = load_model(Path(folders.base.path), dtype="float32")
    broken = "model.layers.1.mlp.down_proj.weight"
    family = materializer.family
    original = family.update

    def update(ref: ModelRef, tensor: str) -> Update:
        found = original(ref, tensor)
        if found is not None and ref == folders.experts[0] and tensor == broken:
            found = replace(found, up=found.up.clone()) if isinstance(found, Factors) else found.clone()
            (found.up if isinstance(found, Factors) else found)[0, 0] = value
        return found

    family.update = update
    with pytest.raises(CandidateError, match=rf"^{broken}: .*not finite"):
        materializer.write(some(name, folders, density=1.0), model)
    with pytest.raises(CandidateError, match=rf"^{broken}: .*not finite"):
        bits(materializer, some(name, folders, density=1.0))


@every_method
def test_experts_equal_to_the_base_give_the_base(name: str) -> None:
    base, *_ = random_tensors((9, 14), 1)
    out = merge(name, base, [base.clone() for _ in range(count(name))])
    assert torch.allclose(out, base, rtol=1e-6, atol=1e-7)


@every_method
def test_an_all_zero_tensor_stays_finite(name: str) -> None:
    zero = torch.zeros(6, 5)
    assert torch.equal(merge(name, zero, [zero] * count(name)), zero)


@every_selecting
def test_identical_experts_with_equal_shares_give_that_expert(name: str) -> None:
    base, expert = random_tensors((9, 14), 1)
    copies = [expert.clone() for _ in range(count(name))]
    shares = [1 / count(name)] * count(name)
    out = merge(name, base, copies, shares, **{"density": 1.0, "lambda": 1.0, "t": 1.0})
    assert torch.allclose(out, expert, rtol=1e-6, atol=1e-6)


with_density = pytest.mark.parametrize(
    "name", [name for name in methods.names() if any(g.name == "density" for g in methods.load(name).GENES)]
)


@with_density
def test_a_density_of_nothing_keeps_the_base(name: str) -> None:
    base, *experts = random_tensors((9, 14), count(name))
    assert torch.equal(merge(name, base, experts, density=0.0), base)


@with_density
def test_a_density_below_one_element_is_finite(name: str) -> None:
    base, *experts = random_tensors((3,), count(name))
    # DELLA's density ± ε must stay a probability; other methods have no ε.
    assert torch.isfinite(merge(name, base, experts, density=1e-6, epsilon=0.0)).all()


@pytest.mark.parametrize("name", [name for name in methods.names() if weighted(name) and count(name) > 1])
def test_weights_that_sum_to_nothing(name: str) -> None:
    base, *experts = random_tensors((9, 14), 2)
    if name == "nuslerp":  # mergekit: half way
        assert torch.equal(merge(name, base, experts, [0.5, -0.5]), merge(name, base, experts, [1.0, 1.0]))
        return
    if name in {"linear", "multislerp", "karcher", "geometric_median"}:
        # No reading: θ / 0, directions of no weight, a negative distance. A task vector over 0 is guarded.
        with pytest.raises(CandidateError, match="weights sum to 0|a weight is negative"):
            merge(name, base, experts, [0.5, -0.5], normalize=True)
        return
    assert torch.isfinite(merge(name, base, experts, [0.5, -0.5], normalize=True)).all()
    assert torch.equal(merge(name, base, experts, [0.0, 0.0], normalize=True), base)


# The bases of Core Space are those of all adapters in the recipe; test_core.py says what a weight of zero means there.
@pytest.mark.parametrize(
    "name", [n for n in methods.names() if weighted(n) and not methods.adapters_only(methods.load(n))]
)
def test_an_expert_of_weight_zero_does_not_take_part(name: str, open_family: Open) -> None:
    if methods.load(name).EXPERTS[1] < 3:
        pytest.skip("takes no third expert")
    folders, materializer = open_family(method=name)
    two = recipe(name, folders.base, folders.experts[:2], [0.6, 0.3])
    three = recipe(name, folders.base, folders.experts[:3], [0.6, 0.3, 0.0])
    assert bits(materializer, two) == bits(materializer, three)
