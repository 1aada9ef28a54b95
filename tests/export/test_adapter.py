"""The exported adapter: peft loads it and gives the merge; a cut rank costs what the optimum costs; refusals."""

import json
import math
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from evomerge.errors import CandidateError, ConfigError, ExpertError, RunError
from evomerge.export import export_adapter, merge_adapter
from evomerge.export.adapter import Summary
from evomerge.export.peft_format import Modules
from evomerge.kernels.factors import Factors
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes import dump_recipe, load_recipe
from evomerge.recipes.recipe import FilteredValue, ModelRef, Recipe, Slice, Source, recipe_of_models
from tests.families import BUILDERS, TARGETS, Folders, save_family
from tests.ledger.test_ledger import disk_of

Options = dict[str, Any]
# Different ranks, alphas and modules: one rank for all would hide a wrong pattern.
OPTIONS: tuple[Options, ...] = (
    {"r": 2, "lora_alpha": 6},
    {"r": 5, "lora_alpha": 3, "use_rslora": True},
    {"r": 3, "lora_alpha": 3},
)
NARROWER = {"llama": ["q_proj"], "gpt2": ["c_attn"], "t5": ["wo"]}
EMBEDDING = {"llama": "embed_tokens", "gpt2": "wte", "t5": "shared"}


def adapter(kind: str, base: ModelRef, folder: Path, seed: int, **options: Any) -> ModelRef:
    """Writes a random adapter and returns its reference."""
    model = type(BUILDERS[kind]()).from_pretrained(base.path, dtype=torch.float32)
    config = LoraConfig(**{"target_modules": TARGETS[kind], "fan_in_fan_out": kind == "gpt2", **options})
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings(), torch.no_grad():  # peft remarks on Conv1D, tied weights and saved embeddings
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        adapted.save_pretrained(folder)
    return ModelRef(base.path, adapter=str(folder))


def adapters(kind: str, folder: Path) -> Folders:
    base = save_family(kind, folder, experts=0).base
    refs = [adapter(kind, base, folder / f"a{i}", seed=i, **options) for i, options in enumerate(OPTIONS[:2])]
    narrow = {**OPTIONS[2], "target_modules": NARROWER[kind]}
    return Folders(base, (*refs, adapter(kind, base, folder / "a2", seed=2, **narrow)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return adapters("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def family(llama: Folders) -> Family:
    return Family(llama.base, llama.experts)


def recipe_of(folders: Folders, *weights: Any, method: str = "task_arithmetic", **settings: Any) -> Recipe:
    sources = tuple(Source(ref, {"weight": w}) for ref, w in zip(folders.experts, weights, strict=False))
    return recipe_of_models(method, folders.base, sources, settings)


GRADIENTS = ((FilteredValue("mlp", (0.2, 0.9)), FilteredValue(None, 0.5)), (-0.7, 1.3), 0.4)


def merged_by_peft(base: ModelRef, folder: Path) -> dict[str, Tensor]:
    """What the world makes of the folder; a key that peft misses is a warning, and so an error."""
    model = _load(base)
    with warnings.catch_warnings():  # peft asks transformers by a name that is on its way out
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings=True.*")
        whole = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return {name: parameter.detach() for name, parameter in whole.named_parameters()}


def _load(base: ModelRef) -> PreTrainedModel:
    kind = json.loads((Path(base.path) / "config.json").read_text())["model_type"]
    return type(BUILDERS[kind]()).from_pretrained(base.path, dtype=torch.float32)


def assert_peft_gives(recipe: Recipe, family: Family, folder: Path, atol: float = 1e-6) -> None:
    if family.base.untied:  # peft's merge would change both sides of the tied pair, its live model does not
        assert_live_peft_gives(recipe, family, folder)
        return
    found = merged_by_peft(family.ref, folder)
    wanted = {family.base.parameter[name]: t for name, t in Materializer(family).tensors(recipe)}
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol, msg=name)


@torch.no_grad()
def assert_live_peft_gives(recipe: Recipe, family: Family, folder: Path) -> None:
    ids = torch.arange(1, 13).view(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(_load(family.ref), str(folder)).eval()(input_ids=ids).logits
    ours = load_model(family.base.folder, dtype="float32", untied=family.base.untied)
    Materializer(family).write(recipe, ours)
    torch.testing.assert_close(ours(input_ids=ids).logits, theirs, rtol=0, atol=1e-4)


def refused(recipe: Recipe, family: Family, out: Path, kind: type[Exception] = ConfigError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        export_adapter(recipe, family, out, **options)
    assert "\n" not in str(caught.value) and not out.exists()
    assert not out.with_name(out.name + ".partial").exists()
    return str(caught.value)


def updates(family: Family, recipe: Recipe) -> dict[str, np.ndarray]:
    """Merge minus base, dense and in float64, from the factors of the experts by weight."""
    found: dict[str, np.ndarray] = {}
    for source in recipe.slices[0].sources:
        for name in family.base.parameter:
            if isinstance(update := family.update(source.model, name), Factors):
                weight = source.settings["weight"]
                assert isinstance(weight, float)
                dense = weight * update.scale * (update.up.double() @ update.down.double()).numpy()
                found[name] = found.get(name, 0.0) + dense
    return found


@pytest.mark.parametrize("kind", list(BUILDERS))
@pytest.mark.parametrize("embedded", [False, True])
def test_peft_merges_it_to_the_recipes_tensors(kind: str, embedded: bool, tmp_path: Path) -> None:
    folders = adapters(kind, tmp_path)
    if embedded:
        targets = [EMBEDDING[kind], *TARGETS[kind]]
        folders = Folders(
            folders.base,
            (*folders.experts, adapter(kind, folders.base, tmp_path / "e", 7, r=4, target_modules=targets)),
        )
    family = Family(folders.base, folders.experts)
    recipe = recipe_of(folders, *GRADIENTS, 0.8, **{"lambda": 1.1})
    summary = export_adapter(recipe, family, tmp_path / "out")
    assert summary.worst == 0 and "exact" in str(summary)
    assert_peft_gives(recipe, family, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == summary.rank == sum(options["r"] for options in OPTIONS) + 4 * embedded
    assert config["rank_pattern"] == config["alpha_pattern"] and config["rank_pattern"]
    assert config["task_type"] == ("SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM")


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_read_back_as_an_expert_it_is_the_same_merge(kind: str, tmp_path: Path) -> None:
    folders = adapters(kind, tmp_path)
    family, recipe = Family(folders.base, folders.experts), recipe_of(folders, *GRADIENTS)
    export_adapter(recipe, family, tmp_path / "out")
    again = ModelRef(folders.base.path, adapter=str(tmp_path / "out"))
    alone = recipe_of_models("task_arithmetic", folders.base, (Source(again, {"weight": 1.0}),), {})
    found = dict(Materializer(Family(folders.base, [again])).tensors(alone))
    for name, tensor in Materializer(family).tensors(recipe):
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_one_adapter_of_weight_one_keeps_its_bits(llama: Folders, family: Family, tmp_path: Path) -> None:
    """alpha/r of a2 is 1: nothing is folded in, and nothing rounds."""
    export_adapter(recipe_of(llama, 0.0, 0.0, 1.0), family, tmp_path / "out")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    theirs = load_file(Path(str(llama.experts[2].adapter)) / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_half_precision_factors_are_not_rounded_again(llama: Folders, tmp_path: Path) -> None:
    ref = adapter("llama", llama.base, tmp_path / "half", seed=5, **OPTIONS[1])
    path = tmp_path / "half" / "adapter_model.safetensors"
    save_file({key: tensor.bfloat16() for key, tensor in load_file(path).items()}, path)
    family = Family(llama.base, [ref])
    recipe = recipe_of_models("task_arithmetic", llama.base, (Source(ref, {"weight": 0.37}),), {})
    export_adapter(recipe, family, tmp_path / "out")
    assert {t.dtype for t in load_file(tmp_path / "out" / "adapter_model.safetensors").values()} == {torch.float32}
    assert_peft_gives(recipe, family, tmp_path / "out")


@pytest.mark.parametrize("base", ["base_model", "unlisted", "listed"])
def test_a_mean_of_adapters_is_one(llama: Folders, tmp_path: Path, base: str) -> None:
    """Also where the first adapter stands as base, as in mergekit, or the base takes part with a weight."""
    sources = [Source(ref, {"weight": w}) for ref, w in zip(llama.experts, (3.0, 1.0, 0.5), strict=True)]
    if base == "listed":
        sources.append(Source(llama.base, {"weight": 2.0}))
    recipe = recipe_of_models("linear", None if base == "unlisted" else llama.base, tuple(sources), {})
    family = Family(recipe.models()[0], recipe.models()[1:])
    assert family.ref == llama.base
    export_adapter(recipe, family, tmp_path / "out")
    assert_peft_gives(recipe, family, tmp_path / "out")


@pytest.mark.parametrize("method", ["ties", "dare_linear"])
def test_another_method_where_it_comes_to_a_weighted_sum(
    method: str, llama: Folders, family: Family, tmp_path: Path
) -> None:
    recipe = recipe_of_models(method, llama.base, (Source(llama.experts[0], {"weight": 0.6}),), {"lambda": 0.7})
    export_adapter(recipe, family, tmp_path / "out")
    assert_peft_gives(recipe, family, tmp_path / "out")


def test_an_adapter_as_base_keeps_its_share(llama: Folders, tmp_path: Path) -> None:
    sources = (Source(llama.experts[1], {"weight": 0.3}), Source(llama.experts[2], {"weight": 0.2}))
    recipe = recipe_of_models("task_arithmetic", llama.experts[0], sources, {})
    family = Family(recipe.models()[0], recipe.models()[1:])
    export_adapter(recipe, family, tmp_path / "out")
    assert_peft_gives(recipe, family, tmp_path / "out")


def test_experts_of_weight_zero_and_modules_without_any_are_left_out(
    llama: Folders, family: Family, tmp_path: Path
) -> None:
    last_layer = (FilteredValue("layers.2.", 0.5), FilteredValue(None, 0.0))
    recipe = recipe_of(llama, (FilteredValue("q_proj", 0.3), FilteredValue(None, 0.0)), 0.0, last_layer)
    export_adapter(recipe, family, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj"] and config["r"] == 5
    assert config["rank_pattern"] == {rf"^model\.layers\.{i}\.self_attn\.q_proj": 2 for i in (0, 1)}
    assert_peft_gives(recipe, family, tmp_path / "out")
    export_adapter(recipe_of(llama, 0.0, 0.0, last_layer), family, tmp_path / "one")
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.2.self_attn.q_proj"] and config["rank_pattern"] == {}
    assert_peft_gives(recipe_of(llama, 0.0, 0.0, last_layer), family, tmp_path / "one")


def test_square_and_linear_modules_of_one_model(tmp_path: Path) -> None:
    """GPT-2 with a head of its own: Conv1D, square Conv1D and Linear in one adapter."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=37, n_embd=12, n_layer=2, n_head=2, n_positions=16, tie_word_embeddings=False)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    base = ModelRef(str(tmp_path / "base"))
    targets = ["attn.c_proj", "c_fc", "lm_head", "wte"]
    ref = adapter("gpt2", base, tmp_path / "a", 1, r=3, target_modules=targets, lora_alpha=5)
    family = Family(base, [ref])
    recipe = recipe_of_models("task_arithmetic", base, (Source(ref, {"weight": 0.6}),), {})
    export_adapter(recipe, family, tmp_path / "out")
    with warnings.catch_warnings():  # peft's flag fits one kind of module at a time; it says so and corrects itself
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        assert_peft_gives(recipe, family, tmp_path / "out")
    again = ModelRef(base.path, adapter=str(tmp_path / "out"))
    one = recipe_of_models("task_arithmetic", base, (Source(again, {"weight": 1.0}),), {})
    found = dict(Materializer(Family(base, [again])).tensors(one))
    for name, tensor in Materializer(family).tensors(recipe):
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_factors_of_a_bare_parameter_become_those_of_its_module(tmp_path: Path) -> None:
    """peft stores them in the parameter's own orientation, which for a Conv1D is not its module's."""
    base = save_family("gpt2", tmp_path, experts=0).base
    target = {"target_modules": [], "target_parameters": ["c_attn.weight", "c_fc.weight"], "fan_in_fan_out": False}
    refs = (adapter("gpt2", base, tmp_path / "a", 1, r=3, **target), adapter("gpt2", base, tmp_path / "b", 2, r=2))
    family, recipe = Family(base, refs), recipe_of(Folders(base, refs), 0.6, -0.8)
    export_adapter(recipe, family, tmp_path / "out")
    assert_peft_gives(recipe, family, tmp_path / "out")


def test_slices_that_keep_every_layer_in_place_are_fine(llama: Folders, family: Family, tmp_path: Path) -> None:
    def part(first: int, last: int, weight: float) -> Slice:
        models = ((llama.base, {}), (llama.experts[0], {"weight": weight}))
        return Slice(tuple(Source(ref, settings, (first, last)) for ref, settings in models))

    recipe = Recipe("task_arithmetic", llama.base, (part(0, 1, 0.4), part(1, 3, -0.3)))
    export_adapter(recipe, family, tmp_path / "out")
    assert_peft_gives(recipe, family, tmp_path / "out")


# Cut to a rank


@pytest.mark.parametrize("kind", list(BUILDERS))
@pytest.mark.parametrize("rank", [1, 4, 7])
def test_a_cut_costs_what_the_best_cut_of_the_dense_update_costs(kind: str, rank: int, tmp_path: Path) -> None:
    folders = adapters(kind, tmp_path)
    family, recipe = Family(folders.base, folders.experts), recipe_of(folders, 0.5, -0.7, 1.1)
    summary = export_adapter(recipe, family, tmp_path / "out", rank=rank)
    lost, norms = {}, {}
    for name, dense in updates(family, recipe).items():
        values = np.linalg.svd(dense, compute_uv=False)
        lost[name], norms[name] = float((values[rank:] ** 2).sum()), float((values**2).sum())
    errors = {name: math.sqrt(lost[name] / norms[name]) for name in lost}
    assert summary.worst == pytest.approx(max(errors.values()), rel=1e-6, abs=1e-6)
    assert summary.error == pytest.approx(math.sqrt(sum(lost.values()) / sum(norms.values())), rel=1e-6, abs=1e-6)
    assert errors[summary.worst_name] == pytest.approx(summary.worst, rel=1e-6, abs=1e-6)
    assert summary.rank == rank and summary.worst > 1e-3 and f"({summary.worst_name})" in str(summary)
    _assert_cut(family, updates(family, recipe), errors, tmp_path / "out", rank)


def _assert_cut(family: Family, dense: dict[str, np.ndarray], errors: dict[str, float], out: Path, rank: int) -> None:
    """The file itself is that near to the dense update, by peft's reading, with factors of that rank."""
    found = merged_by_peft(family.ref, out)
    for name, update in dense.items():
        base = family.base.checkpoint.tensor(name).double().numpy()
        written = found[family.base.parameter[name]].double().numpy() - base
        gap = np.linalg.norm(written - update) / np.linalg.norm(update)
        assert gap == pytest.approx(errors[name], rel=1e-4, abs=1e-6), name
        assert np.linalg.matrix_rank(written, tol=1e-5) <= rank


@pytest.mark.parametrize("rank", [10, 500])
def test_a_rank_that_suffices_changes_nothing(rank: int, llama: Folders, family: Family, tmp_path: Path) -> None:
    recipe = recipe_of(llama, 0.5, -0.7, 1.1)
    exact = export_adapter(recipe, family, tmp_path / "exact")
    uncut = export_adapter(recipe, family, tmp_path / "cut", rank=rank)
    assert str(exact) == str(uncut) == "rank 10, 6 tensors, exact"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "exact" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_what_several_experts_share_needs_no_rank_of_its_own(llama: Folders, tmp_path: Path) -> None:
    """Two adapters of rank 2 that are equal: rank 3 holds their sum exactly, in two columns."""
    twin = ModelRef(llama.base.path, adapter=str(tmp_path / "twin"))
    adapter("llama", llama.base, tmp_path / "twin", seed=0, **OPTIONS[0])
    folders = Folders(llama.base, (llama.experts[0], twin))
    family, recipe = Family(folders.base, folders.experts), recipe_of(folders, 0.3, 0.4)
    summary = export_adapter(recipe, family, tmp_path / "out", rank=3)
    assert summary.rank == 2 and summary.worst == 0
    assert_peft_gives(recipe, family, tmp_path / "out")
    assert "leave every tensor" in refused(recipe_of(folders, 0.3, -0.3), family, tmp_path / "no", rank=3)


def test_more_factors_than_the_matrix_has_rows_are_cut_to_its_rank(llama: Folders, tmp_path: Path) -> None:
    refs = tuple(adapter("llama", llama.base, tmp_path / f"w{i}", seed=i, r=9, lora_alpha=9) for i in range(2))
    folders = Folders(llama.base, refs)
    family, recipe = Family(llama.base, refs), recipe_of(folders, 0.5, 0.5)
    summary = export_adapter(recipe, family, tmp_path / "out", rank=12)
    assert summary.rank == 12 and summary.worst == 0
    assert_peft_gives(recipe, family, tmp_path / "out", atol=3e-6)


# The folder


def test_the_folder_holds_its_recipe_and_card(llama: Folders, family: Family, tmp_path: Path) -> None:
    recipe = recipe_of(llama, *GRADIENTS).with_notes({"scores": {"holdout": 0.9}})
    summary = export_adapter(recipe, family, tmp_path / "out", rank=4)
    names = {"README.md", "recipe.yaml", "reproduce.json", "adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in (tmp_path / "out").iterdir())
    assert load_recipe(tmp_path / "out" / "recipe.yaml").key() == recipe.key()
    card = (tmp_path / "out" / "README.md").read_text()
    for text in ("library_name: peft", Path(llama.base.path).name, str(summary), "OUT --adapter --rank 4", "0.9000"):
        assert text in card
    assert "before it was cut" in card


@pytest.mark.parametrize("rank", [None, 3])
def test_the_same_recipe_gives_the_same_bytes(rank: int | None, llama: Folders, family: Family, tmp_path: Path) -> None:
    export_adapter(recipe_of(llama, *GRADIENTS), family, tmp_path / "a", rank=rank)
    merge_adapter(tmp_path / "a" / "recipe.yaml", tmp_path / "deep" / "b", rank=rank)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "deep" / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("size", [3000, 100])
def test_a_full_disk_is_one_line_and_leaves_nothing(size: int, llama: Folders, family: Family, tmp_path: Path) -> None:
    with disk_of(size):
        assert "limit on the size" in refused(recipe_of(llama, *GRADIENTS), family, tmp_path / "out", RunError)
    assert list(tmp_path.iterdir()) == []


def test_a_used_folder_is_refused_and_left_alone(llama: Folders, family: Family, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="already exists and is not empty"):
        export_adapter(recipe_of(llama, *GRADIENTS), family, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# Refusals


def test_an_expert_that_is_no_adapter_on_the_base_is_named(llama: Folders, tmp_path: Path) -> None:
    full = save_family("llama", tmp_path / "full", experts=1).experts[0]
    elsewhere = ModelRef(full.path, adapter=llama.experts[0].adapter)
    for stranger in (full, elsewhere):
        family = Family(llama.base, (*llama.experts, stranger))
        line = refused(recipe_of(Folders(llama.base, (stranger,)), 0.5), family, tmp_path / "out")
        assert f"{stranger}: not an adapter on {llama.base}," in line and "merge without --adapter" in line


@pytest.mark.parametrize(
    ("method", "options"), [("ties", {}), ("ties", {"trim": "model"}), ("dare_linear", {}), ("dare_ties", {})]
)
def test_a_method_that_is_no_weighted_sum_is_named(
    method: str, options: dict[str, str], llama: Folders, family: Family, tmp_path: Path
) -> None:
    sources = tuple(Source(ref, {"weight": 0.5, "density": 0.5}) for ref in llama.experts)
    line = refused(recipe_of_models(method, llama.base, sources, {}, options=options), family, tmp_path / "out")
    assert f"method {method}" in line and "merge without --adapter" in line


def test_a_sum_that_scales_the_base_is_named(llama: Folders, family: Family, tmp_path: Path) -> None:
    in_norms = (FilteredValue("model.norm", 0.9), FilteredValue(None, 1.0))  # a tensor that no adapter touches
    recipe = recipe_of(llama, in_norms, method="linear", normalize=False)
    line = refused(recipe, family, tmp_path / "out")
    assert line.startswith("model.norm.weight: ") and "0.9" in line
    with pytest.raises(CandidateError, match="sum to 0"):
        export_adapter(recipe_of(llama, 1.0, -1.0, 0.0, method="linear"), family, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "layers.0.self_attn.q_proj.weight"),
        ({"modules_to_save": ["lm_head", "norm"]}, "norm.weight"),
        ({"trainable_token_indices": [1, 3]}, "model.embed_tokens.weight"),
    ],
)
def test_a_tensor_that_is_changed_as_a_whole_is_named(
    options: Options, named: str, llama: Folders, tmp_path: Path
) -> None:
    ref = adapter("llama", llama.base, tmp_path / "whole", seed=3, r=2, **options)
    folders = Folders(llama.base, (*llama.experts, ref))
    family = Family(folders.base, folders.experts)
    line = refused(recipe_of(folders, 0.1, 0.2, 0.3, 0.4), family, tmp_path / "out")
    assert str(ref) in line and named in line and "merge without --adapter" in line
    export_adapter(recipe_of(folders, 0.1, 0.2, 0.3, 0.0), family, tmp_path / "out")  # it takes no part


def test_a_trained_bias_is_named(tmp_path: Path) -> None:
    base = save_family("gpt2", tmp_path, experts=0).base
    ref = adapter("gpt2", base, tmp_path / "a", 1, r=2, bias="all")
    line = refused(recipe_of(Folders(base, (ref,)), 0.5), Family(base, [ref]), tmp_path / "out")
    assert str(ref) in line and ".bias is changed" in line and "merge without --adapter" in line


def test_a_module_that_peft_does_not_adapt_is_named(family: Family) -> None:
    with pytest.raises(ConfigError, match="model.norm: a LlamaRMSNorm"):
        Modules(family.base).kind("model.norm")


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (((0, 2),), "model.layers.2.input_layernorm.weight is left out"),
        (((0, 3), (1, 3)), "model.layers.3."),
        (((0, 1), (2, 3), (1, 2)), "comes from model.layers.2."),
    ],
)
def test_layers_that_move_or_are_left_out_are_refused(
    layers: tuple[tuple[int, int], ...], text: str, llama: Folders, family: Family, tmp_path: Path
) -> None:
    slices = tuple(
        Slice((Source(llama.base, {}, span), Source(llama.experts[0], {"weight": 1}, span))) for span in layers
    )
    line = refused(Recipe("task_arithmetic", llama.base, slices), family, tmp_path / "out")
    assert text in line and "merge without --adapter" in line


def test_a_merge_that_is_the_base_is_no_adapter(llama: Folders, family: Family, tmp_path: Path) -> None:
    assert "as the base has it" in refused(recipe_of(llama, 0.0, 0.0, 0.0), family, tmp_path / "out")


@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_below_one_is_refused(rank: int, llama: Folders, family: Family, tmp_path: Path) -> None:
    assert f"--rank {rank}" in refused(recipe_of(llama, *GRADIENTS), family, tmp_path / "out", rank=rank)


@pytest.mark.parametrize("rank", [None, 2])
def test_an_expert_that_is_not_finite_is_named_by_its_tensor(rank: int | None, llama: Folders, tmp_path: Path) -> None:
    ref = adapter("llama", llama.base, tmp_path / "nan", seed=3, r=4)
    path = tmp_path / "nan" / "adapter_model.safetensors"
    tensors = load_file(path)
    first = sorted(tensors)[0]
    save_file({**tensors, first: tensors[first] * math.nan}, path)
    folders = Folders(llama.base, (ref,))
    line = refused(recipe_of(folders, 0.5), Family(llama.base, [ref]), tmp_path / "out", CandidateError, rank=rank)
    assert "down_proj.weight" in line and "NaN" in line


def test_other_weights_than_the_scored_ones_are_refused(llama: Folders, family: Family, tmp_path: Path) -> None:
    ref = str(llama.experts[0])
    recipe = recipe_of(llama, 0.5).with_notes({"models": {ref: "0" * 64}})
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    with pytest.raises(ExpertError, match="not the weights that the recipe was scored with"):
        merge_adapter(tmp_path / "r.yaml", tmp_path / "out")


def test_the_summary_is_one_line() -> None:
    assert (
        str(Summary(8, 6, 0.01234, 0.2, "x.weight"))
        == "rank 8, 6 tensors, relative error 0.012, at most 0.2 (x.weight)"
    )
