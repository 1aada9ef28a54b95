"""Recipes into live models: adapters, whole-model thresholds, refusals, rounding and fingerprints."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import CandidateError
from evomerge.family import Family
from evomerge.materialize import Fingerprint, Materializer, fingerprint, rounded
from evomerge.model import load_model
from evomerge.recipe import ModelRef, Recipe, Setting, Slice, Source, models_form
from tests.families import Folders, save_adapter, save_family

Tensors = dict[str, torch.Tensor]


def task_arithmetic(folders: Folders, *sources: tuple[ModelRef, float]) -> Recipe:
    return models_form("task_arithmetic", folders.base, tuple(Source(r, {"weight": w}) for r, w in sources), {})


def written(materializer: Materializer, recipe: Recipe, dtype: str = "float32") -> Tensors:
    model = load_model(materializer.family.base.folder, dtype=dtype)
    materializer.write(recipe, model)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return save_family("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def materializer(llama: Folders) -> Materializer:
    return Materializer(Family(llama.base, llama.experts))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_adapters_and_checkpoints_add_up_to_pefts_dense_merge(kind: str, tmp_path: Path) -> None:
    folders = save_family(kind, tmp_path, experts=1)
    one, first = save_adapter(kind, folders.base, tmp_path / "one", rank=2, seed=1)
    two, second = save_adapter(kind, folders.base, tmp_path / "two", rank=5, seed=2)
    full = folders.experts[0]
    base, third = (
        {n: p.detach().double() for n, p in load_model(Path(r.path), dtype="float32").named_parameters()}
        for r in (folders.base, full)
    )
    found = written(
        Materializer(Family(folders.base, [one, two, full])),
        task_arithmetic(folders, (one, 0.7), (two, -0.4), (full, 0.3)),
    )
    changed = 0
    for name, tensor in found.items():
        updates = [(0.7, first[name]), (-0.4, second[name]), (0.3, third[name])]
        wanted = base[name] + sum(weight * (merged.double() - base[name]) for weight, merged in updates)
        assert torch.allclose(tensor.double(), wanted, rtol=1e-5, atol=1e-6), name
        changed += not torch.equal(first[name].double(), base[name])
    assert changed >= 4, "the adapter must change something for the test to mean anything"


@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp", "linear"])
def test_every_pass_takes_an_adapter_like_its_dense_merge(method: str, tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path, experts=1)
    adapter, merged = save_adapter("llama", folders.base, tmp_path / "lora", rank=3, seed=4)
    dense = load_model(Path(folders.base.path), dtype="float32")
    dense.load_state_dict(merged)
    dense.save_pretrained(tmp_path / "dense")
    own: dict[str, Setting] = {} if method == "slerp" else {"weight": 0.6}
    if method not in ("slerp", "linear"):
        own["density"] = 1.0
    shared: dict[str, Setting] = {"t": 0.3} if method == "slerp" else {}
    refs = (adapter, ModelRef(str(tmp_path / "dense")))
    both = Materializer(Family(folders.base, refs))
    low, full = (dict(both.tensors(models_form(method, folders.base, (Source(r, own),), shared))) for r in refs)
    for name in low:
        assert torch.allclose(low[name], full[name], rtol=1e-5, atol=1e-6), name


def test_trim_over_the_whole_model_keeps_its_largest_share(llama: Folders, materializer: Materializer) -> None:
    sources = tuple(Source(ref, {"weight": 1.0, "density": 0.3}) for ref in llama.experts[:1])
    recipe = models_form("ties", llama.base, sources, {}, options={"trim": "model"})
    base = {n: materializer.family.base.checkpoint.tensor(n) for n in materializer.family.base.parameter}
    expert = load_file(Path(llama.experts[0].path) / "model.safetensors")
    merged = dict(materializer.tensors(recipe))
    size = sum(tensor.numel() for tensor in base.values())
    kept = sum(int((merged[name] != base[name]).sum()) for name in base)
    assert kept == pytest.approx(int(0.3 * size), abs=2)
    shares = [float((merged[name] != base[name]).double().mean()) for name in base]
    assert max(shares) - min(shares) > 0.05, "a threshold a tensor would keep the same share everywhere"
    smallest = min(
        (merged[n] - base[n]).abs()[merged[n] != base[n]].min() for n in base if (merged[n] != base[n]).any()
    )
    dropped = max((expert[n] - base[n]).abs()[merged[n] == base[n]].max() for n in base)
    assert smallest >= dropped - 1e-6


def test_a_threshold_over_the_model_counts_from_the_recipes_base(llama: Folders, materializer: Materializer) -> None:
    """The same recipe, opened on another family: its base is an expert there."""
    base, expert = llama.experts[0], llama.experts[1]
    values: dict[str, Setting] = {"weight": 1.0, "density": 0.3}
    recipe = models_form("ties", base, (Source(expert, values),), {}, options={"trim": "model"})
    alone = Materializer(Family(base, [expert]))
    assert fingerprint(materializer.tensors(recipe)) == fingerprint(alone.tensors(recipe))


def test_what_is_written_is_what_is_exported(llama: Folders, materializer: Materializer) -> None:
    recipe = task_arithmetic(llama, (llama.experts[0], 0.8), (llama.experts[1], 0.5))
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        stream = dict(rounded(materializer.tensors(recipe), dtype))
        live = written(materializer, recipe, name)
        assert stream.keys() == live.keys()
        assert fingerprint(stream.items()) == fingerprint(live.items())


def test_a_value_beyond_half_precision_is_a_failed_candidate(llama: Folders, materializer: Materializer) -> None:
    recipe = task_arithmetic(llama, (llama.experts[0], 1e7))
    assert written(materializer, recipe, "float32")
    with pytest.raises(CandidateError, match=r"is not finite in torch\.float16"):
        written(materializer, recipe, "float16")
    with pytest.raises(CandidateError, match=r"is not finite in torch\.float16"):
        list(rounded(materializer.tensors(recipe), torch.float16))


def test_a_failed_candidate_leaves_the_next_one_whole(llama: Folders, materializer: Materializer) -> None:
    model = load_model(Path(llama.base.path), dtype="float16")
    good = task_arithmetic(llama, (llama.experts[0], 0.5))
    materializer.write(good, model)
    before = fingerprint(model.named_parameters())
    with pytest.raises(CandidateError):
        materializer.write(task_arithmetic(llama, (llama.experts[0], 1e7)), model)
    materializer.write(good, model)
    assert fingerprint(model.named_parameters()) == before


def test_a_parameter_that_nobody_writes_is_refused(llama: Folders, materializer: Materializer) -> None:
    model = load_model(Path(llama.base.path), dtype="float32")
    model.register_parameter("extra", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(CandidateError, match=r"^extra: the recipe writes no such parameter"):
        materializer.write(task_arithmetic(llama, (llama.experts[0], 0.5)), model)


def test_slices_stack_the_layers_they_name(llama: Folders, materializer: Materializer) -> None:
    first, last = llama.experts[0], llama.experts[1]
    parts = (
        Slice((Source(llama.base, {}, (0, 2)), Source(first, {"weight": 1.0}, (0, 2)))),
        Slice((Source(llama.base, {}, (1, 3)), Source(last, {"weight": 1.0}, (1, 3)))),
    )
    merged = dict(materializer.tensors(Recipe("task_arithmetic", llama.base, parts)))
    one, two = (load_file(Path(ref.path) / "model.safetensors") for ref in (first, last))
    wanted = {0: one, 1: one, 2: two, 3: two}
    for layer, source in wanted.items():
        origin = layer if layer < 2 else layer - 1
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert torch.equal(merged[name], source[f"model.layers.{origin}.mlp.up_proj.weight"])
    assert torch.equal(merged["model.embed_tokens.weight"], one["model.embed_tokens.weight"])
    assert torch.equal(merged["lm_head.weight"], two["lm_head.weight"])


def test_an_adapter_in_another_place_than_the_bases_is_a_whole_weight(tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path, experts=2)
    adapter, merged = save_adapter("llama", folders.base, tmp_path / "lora", rank=2, seed=7)
    materializer = Materializer(Family(folders.base, [adapter, *folders.experts]))
    shifted = Slice((Source(folders.base, {}, (0, 2)), Source(adapter, {"weight": 1.0}, (1, 3))))
    found = dict(materializer.tensors(Recipe("task_arithmetic", folders.base, (shifted,))))
    elsewhere = models_form("task_arithmetic", folders.experts[1], (Source(adapter, {"weight": 1.0}),), {})
    whole = dict(materializer.tensors(elsewhere))
    for part in ("self_attn.q_proj.weight", "mlp.up_proj.weight"):
        wanted = merged[f"model.layers.2.{part}"]
        assert torch.allclose(found[f"model.layers.1.{part}"], wanted, atol=1e-6)
        assert torch.allclose(whole[f"model.layers.2.{part}"], wanted, atol=1e-6)


def test_the_order_of_tensors_in_a_file_is_irrelevant(llama: Folders, tmp_path: Path) -> None:
    folders = [llama.base, *llama.experts]
    for ref in folders:
        target = tmp_path / Path(ref.path).name
        target.mkdir()
        (target / "config.json").write_text((Path(ref.path) / "config.json").read_text())
        tensors = load_file(Path(ref.path) / "model.safetensors")
        names = sorted(tensors, reverse=True)
        shards = {f"model-{i}.safetensors": names[i::3] for i in range(3)}
        for file, held in shards.items():
            save_file({name: tensors[name] for name in held}, target / file)
        places = {name: file for file, held in shards.items() for name in held}
        (target / "model.safetensors.index.json").write_text(f'{{"weight_map": {places}}}'.replace("'", '"'))
    moved = Folders(ModelRef(str(tmp_path / "base")), tuple(ModelRef(str(tmp_path / f"e{i}")) for i in range(3)))
    found = []
    for family in (llama, moved):
        sources = tuple(Source(ref, {"weight": 0.4, "density": 0.5}) for ref in family.experts)
        recipe = models_form("dare_ties", family.base, sources, {})
        found.append(fingerprint(Materializer(Family(family.base, family.experts)).tensors(recipe)))
    assert found[0] == found[1]


def test_fingerprints_see_names_bytes_shapes_and_dtypes_but_not_order() -> None:
    one, two = ("a", torch.arange(6.0)), ("b", torch.ones(2, 3))
    assert fingerprint([one, two]) == fingerprint([two, one])
    assert fingerprint([("a", torch.arange(6.0).view(2, 3).T.contiguous().T)]) == fingerprint(
        [("a", torch.arange(6.0).view(2, 3))]
    )
    others = [
        [("c", one[1]), two],
        [("a", one[1].view(2, 3)), two],
        [("a", one[1].to(torch.bfloat16)), two],
        [("a", one[1] + 1e-6), two],
        [("a", one[1].view(torch.int32)), two],
        [one],
        [],
    ]
    assert len({fingerprint([one, two]), *(fingerprint(tensors) for tensors in others)}) == 1 + len(others)
    digest = Fingerprint()
    digest.add(*one)
    digest.add(*two)
    assert digest.hexdigest() == fingerprint([one, two]) and len(digest.hexdigest()) == 64
    assert fingerprint([("s", torch.tensor(1.0))])
