"""Recipes into live models: adapters, whole-model thresholds, refusals, rounding and fingerprints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge import kernels
from evomerge.errors import CandidateError
from evomerge.kernels import Runner
from evomerge.merging.digests import Fingerprint, fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.merging.placement import Mode, Placement
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import ModelRef, Recipe, Setting, Slice, Source, recipe_of_models
from tests.families import Folders, save_adapter, save_family

Tensors = dict[str, torch.Tensor]


def task_arithmetic(folders: Folders, *sources: tuple[ModelRef, float]) -> Recipe:
    return recipe_of_models("task_arithmetic", folders.base, tuple(Source(r, {"weight": w}) for r, w in sources), {})


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
    low, full = (dict(both.tensors(recipe_of_models(method, folders.base, (Source(r, own),), shared))) for r in refs)
    for name in low:
        assert torch.allclose(low[name], full[name], rtol=1e-5, atol=1e-6), name


def test_trim_over_the_whole_model_keeps_its_largest_share(llama: Folders, materializer: Materializer) -> None:
    sources = tuple(Source(ref, {"weight": 1.0, "density": 0.3}) for ref in llama.experts[:1])
    recipe = recipe_of_models("ties", llama.base, sources, {}, options={"trim": "model"})
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
    recipe = recipe_of_models("ties", base, (Source(expert, values),), {}, options={"trim": "model"})
    alone = Materializer(Family(base, [expert]))
    assert fingerprint(materializer.tensors(recipe)) == fingerprint(alone.tensors(recipe))


def test_what_is_written_is_what_is_exported(llama: Folders, materializer: Materializer) -> None:
    recipe = task_arithmetic(llama, (llama.experts[0], 0.8), (llama.experts[1], 0.5))
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        stream = dict(materializer.tensors(recipe, dtype))
        live = written(materializer, recipe, name)
        assert stream.keys() == live.keys()
        assert fingerprint(stream.items()) == fingerprint(live.items())


def test_a_value_beyond_half_precision_is_a_failed_candidate(llama: Folders, materializer: Materializer) -> None:
    recipe = task_arithmetic(llama, (llama.experts[0], 1e7))
    assert written(materializer, recipe, "float32")
    with pytest.raises(CandidateError, match=r"is not finite in torch\.float16"):
        written(materializer, recipe, "float16")
    with pytest.raises(CandidateError, match=r"is not finite in torch\.float16"):
        list(materializer.tensors(recipe, torch.float16))


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
    elsewhere = recipe_of_models("task_arithmetic", folders.experts[1], (Source(adapter, {"weight": 1.0}),), {})
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
        recipe = recipe_of_models("dare_ties", family.base, sources, {})
        found.append(fingerprint(Materializer(Family(family.base, family.experts)).tensors(recipe)))
    assert found[0] == found[1]


# --- what is written again, and what is left alone ---


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors that were merged."""
    names: list[str] = []
    original = kernels.apply

    def apply(coefficients: kernels.Coefficients, sources: kernels.Sources, *rest: Any) -> torch.Tensor:
        names.append(sources.name)
        return original(coefficients, sources, *rest)

    monkeypatch.setattr(kernels, "apply", apply)
    return names


def graded(folders: Folders, method: str, early: float, late: float, **shared: Setting) -> Recipe:
    """Of three layers the first expert's weight is `early`, `late` and `late`; the outer tensors have the first's."""
    own: dict[str, Setting] = {} if method in ("linear", "task_arithmetic") else {"density": 0.4}
    sources = [
        Source(ref, {"weight": weight, **own})
        for ref, weight in zip(folders.experts, ((early, late, late), 0.5), strict=False)
    ]
    return recipe_of_models(method, folders.base, tuple(sources), shared)


def state(model: torch.nn.Module) -> str:
    return fingerprint(model.named_parameters())


def live(folders: Folders, dtype: str = "float32") -> torch.nn.Module:
    return load_model(Path(folders.base.path), dtype=dtype)


def fresh(folders: Folders, recipe: Recipe, dtype: str = "float32") -> str:
    """By a materializer and a model that know of nothing before."""
    model = live(folders, dtype)
    Materializer(Family(folders.base, folders.experts)).write(recipe, model)
    return state(model)


METHODS = ["linear", "task_arithmetic", "ties", "dare_ties", "dare_linear"]


@pytest.mark.parametrize("method", METHODS)
def test_only_what_changes_is_written_again(method: str, llama: Folders, passes: list[str]) -> None:
    one, two = graded(llama, method, 0.6, 0.3), graded(llama, method, 0.6, 0.4)
    wanted = [fresh(llama, recipe) for recipe in (one, two)]
    materializer, model = Materializer(Family(llama.base, llama.experts)), live(llama)
    count = len(materializer.family.base.parameter)
    deep = sorted(name for name in materializer.family.base.parameter.values() if ".layers.1." in name or ".2." in name)
    written = []
    for recipe in (one, one, two, one):
        passes.clear()
        materializer.write(recipe, model)
        written.append((sorted(passes), state(model)))
    assert [bits for _, bits in written] == [wanted[0], wanted[0], wanted[1], wanted[0]]
    assert len(written[0][0]) == count and written[1][0] == []
    assert written[2][0] == deep == written[3][0]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("method", METHODS)
def test_other_methods_options_seeds_and_models_are_written_in_full(
    method: str, llama: Folders, passes: list[str]
) -> None:
    """A candidate that has the numbers of the last one but means something else."""
    other = "task_arithmetic" if method == "linear" else "linear"
    sources = tuple(Source(ref, {"weight": 0.5}) for ref in llama.experts[:2])
    moved = tuple(Source(ref, {"weight": 0.5}) for ref in llama.experts[1:])
    settings: dict[str, Setting] = {"density": 0.5}
    recipes = [
        recipe_of_models(method, llama.base, sources, settings),
        recipe_of_models(other, llama.base, sources, settings),
        recipe_of_models(method, llama.base, moved, settings),
        recipe_of_models(method, llama.experts[2], sources, settings),
        recipe_of_models(method, llama.base, sources, settings, seed=7),
    ]
    materializer, model = Materializer(Family(llama.base, llama.experts)), live(llama)
    for recipe in [*recipes, *recipes[::-1][1:], recipes[2], recipes[0]]:
        passes.clear()
        materializer.write(recipe, model)
        assert len(passes) == len(materializer.family.base.parameter)
        assert state(model) == fresh(llama, recipe)


def test_another_model_is_written_in_full(llama: Folders, materializer: Materializer, passes: list[str]) -> None:
    recipe, first, second = graded(llama, "ties", 0.6, 0.3), live(llama), live(llama)
    for model, again in ((first, True), (first, False), (second, True), (first, True)):
        passes.clear()
        materializer.write(recipe, model)
        assert bool(passes) == again and state(model) == fresh(llama, recipe)


def test_after_a_failed_write_nothing_is_known(llama: Folders, passes: list[str]) -> None:
    materializer, model = Materializer(Family(llama.base, llama.experts)), live(llama, "float16")
    good, bad = graded(llama, "task_arithmetic", 0.6, 0.3), graded(llama, "task_arithmetic", 0.6, 1e7)
    wanted, count = fresh(llama, good, "float16"), len(materializer.family.base.parameter)
    for again in range(2):
        materializer.write(good, model)
        for _ in range(2):
            with pytest.raises(CandidateError, match="not finite"):
                materializer.write(bad, model)
        passes.clear()
        materializer.write(good, model)
        assert len(passes) == count and state(model) == wanted, again


def test_after_a_pass_that_raises_nothing_is_known(
    llama: Folders, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    materializer, model = Materializer(Family(llama.base, llama.experts)), live(llama)
    one, two = graded(llama, "ties", 0.6, 0.3), graded(llama, "ties", 0.7, 0.4)
    materializer.write(one, model)

    def fail(*given: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(kernels, "apply", fail)
        materializer.write(two, model)
    passes.clear()
    materializer.write(one, model)
    assert len(passes) == len(materializer.family.base.parameter) and state(model) == fresh(llama, one)


def test_a_candidate_without_a_merge_changes_nothing(llama: Folders, passes: list[str]) -> None:
    materializer, model = Materializer(Family(llama.base, llama.experts)), live(llama)
    good, before = graded(llama, "linear", 0.6, 0.3), fresh(llama, graded(llama, "linear", 0.6, 0.3))
    materializer.write(good, model)
    passes.clear()
    opposed = tuple(Source(ref, {"weight": sign * 0.5}) for ref, sign in zip(llama.experts, (1, -1), strict=False))
    with pytest.raises(CandidateError, match="weights sum to 0"):
        materializer.write(recipe_of_models("linear", llama.base, opposed, {}), model)
    assert not passes and state(model) == before
    materializer.write(good, model)
    assert not passes and state(model) == before


def test_exports_do_not_disturb_what_is_known(llama: Folders, passes: list[str]) -> None:
    materializer, model = Materializer(Family(llama.base, llama.experts)), live(llama)
    one, two = graded(llama, "dare_ties", 0.6, 0.3), graded(llama, "dare_ties", 0.7, 0.4)
    materializer.write(one, model)
    list(materializer.tensors(two))
    passes.clear()
    materializer.write(one, model)
    assert not passes and state(model) == fresh(llama, one)


def test_a_strided_parameter_is_written_like_any_other(llama: Folders, materializer: Materializer) -> None:
    recipe, model = graded(llama, "ties", 0.6, 0.3), live(llama)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.T.contiguous().T
    materializer.write(recipe, model)
    assert state(model) == fresh(llama, recipe)


@pytest.mark.parametrize("mode", ["device", "pinned", "mmap"])
@pytest.mark.parametrize("kept", [False, True], ids=["memory", "disk"])
def test_every_place_gives_the_same_bits(mode: Mode, kept: bool, llama: Folders, tmp_path: Path) -> None:
    for method in ("ties", "dare_ties", "slerp"):
        own: dict[str, Setting] = {} if method == "slerp" else {"weight": 0.6, "density": 0.4}
        shared: dict[str, Setting] = {"t": 0.3} if method == "slerp" else {}
        recipe = recipe_of_models(method, llama.base, (Source(llama.experts[0], own),), shared)
        placed = Materializer(
            Family(llama.base, llama.experts),
            placement=Placement(mode, torch.device("cpu")),
            prepared=tmp_path if kept else None,
        )
        model = live(llama)
        placed.write(recipe, model)
        assert state(model) == fresh(llama, recipe)


def test_preparing_beforehand_reports_progress_and_is_done_once(llama: Folders, tmp_path: Path) -> None:
    recipe = graded(llama, "ties", 0.6, 0.3)
    materializer = Materializer(Family(llama.base, llama.experts), prepared=tmp_path)
    count = len(materializer.family.base.parameter)
    assert list(materializer.prepare(recipe)) == [(done, count) for done in range(1, count + 1)]
    assert all(part.setup.sources.is_prepared for part in materializer.tensor_merges(recipe))
    model = live(llama)
    materializer.write(recipe, model)
    assert state(model) == fresh(llama, recipe)


def test_a_stream_keeps_no_banks(llama: Folders) -> None:
    """A merge of a large model would hold one or two more of its size at the end."""
    recipe = recipe_of_models("tsv_m", llama.base, tuple(Source(ref, {"alpha": 0.5}) for ref in llama.experts), {})
    materializer = Materializer(Family(llama.base, llama.experts))
    prepared = [part.setup.sources for part in materializer.tensor_merges(recipe)]
    assert any(name.startswith("bank.") for sources in prepared for name in sources.prepared)
    first = fingerprint(materializer.tensors(recipe))
    assert not any(name.startswith("bank.") for sources in prepared for name in sources.prepared)
    assert fingerprint(materializer.tensors(recipe)) == first


@pytest.mark.parametrize(("sums", "rules"), [(0, 10**9), (10**9, 0), (0, 0), (10**9, 10**9)])
def test_sums_and_rules_are_compiled_from_sizes_of_their_own(
    sums: int, rules: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.merging.materializer.COMPILE_SUMS", sums)
    monkeypatch.setattr("evomerge.merging.materializer.COMPILE_RULES", rules)
    folders, asked = save_family("llama", tmp_path, experts=2), set()

    def apply(coefficients: object, sources: object, out: torch.Tensor, runner: Runner) -> torch.Tensor:
        asked.add((type(coefficients).__name__, runner.compiled))
        out.zero_()
        return torch.zeros(())

    monkeypatch.setattr("evomerge.kernels.apply", apply)
    materializer = Materializer(Family(folders.base, folders.experts))
    for method in ("task_arithmetic", "ties"):
        sources = tuple(Source(ref, {"weight": 0.4, "density": 0.5}) for ref in folders.experts)
        dict(materializer.tensors(recipe_of_models(method, folders.base, sources, {"lambda": 0.7})))
    assert asked == {("LinComb", sums == 0), ("Consensus", rules == 0)}


@pytest.mark.slow
def test_a_compiler_changes_no_bit_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the tiny family are below what is compiled, so the bound goes down for this one."""
    monkeypatch.setattr("evomerge.kernels.runner.EAGER_ELEMENTS", 8)
    folders = save_family("llama", tmp_path, torch.bfloat16, experts=2)
    adapter, _ = save_adapter("llama", folders.base, tmp_path / "lora", rank=2, seed=1)
    family = Family(folders.base, [*folders.experts, adapter])
    plain, compiled = Materializer(family, compiled=False), Materializer(family, compiled=True)
    for method, dtype in (("task_arithmetic", torch.float32), ("dare_ties", torch.bfloat16)):
        own: dict[str, Setting] = {"weight": 0.4, "density": 0.5}
        sources = tuple(Source(ref, own) for ref in (*folders.experts, adapter))
        recipe = recipe_of_models(method, folders.base, sources, {"lambda": 0.7})
        assert fingerprint(plain.tensors(recipe, dtype)) == fingerprint(compiled.tensors(recipe, dtype))
    assert compiled.runner.compiled and compiled._rules.compiled, "the compiler gave up"


# --- fingerprints ---


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
