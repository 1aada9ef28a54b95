"""The exported folder: what transformers needs is there and loads, and a failure leaves nothing."""

import json
import math
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.errors import CandidateError, ConfigError, RunError
from evomerge.export import export_recipe, merge_recipe
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.recipes import load_recipe
from evomerge.recipes.recipe import FilteredValue, ModelRef, Recipe, Source, recipe_of_models
from tests.conftest import QUICKSTART
from tests.families import BUILDERS, save_family
from tests.ledger.test_ledger import disk_of

BASE = ModelRef(str(QUICKSTART / "family" / "base"))
EXPERTS = tuple(ModelRef(str(QUICKSTART / "family" / name)) for name in ("shift", "last"))


def merged(dtype: str | None = "float32") -> Recipe:
    depths = (FilteredValue("mlp", (0.2, 0.9)), FilteredValue(None, 0.5))
    sources = (Source(EXPERTS[0], {"weight": 0.4}), Source(EXPERTS[1], {"weight": depths}))
    return recipe_of_models("task_arithmetic", BASE, sources, {}, out_dtype=dtype).with_notes(
        {"scores": {"holdout": 0.9}}
    )


@pytest.fixture(scope="module")
def family() -> Family:
    return Family(BASE, EXPERTS)


@pytest.fixture(scope="module")
def exported(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "merged"
    export_recipe(merged(), family, out)
    return out


def test_transformers_loads_what_the_search_scored(exported: Path, family: Family) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.dtype == torch.float32
    expected = dict(Materializer(family).tensors(merged()))
    found = dict(model.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_tokenizer_and_generation_config_come_along(exported: Path) -> None:
    ours, theirs = AutoTokenizer.from_pretrained(exported), AutoTokenizer.from_pretrained(BASE.path)
    assert ours("last agc = c").input_ids == theirs("last agc = c").input_ids
    base = Path(BASE.path) / "generation_config.json"
    assert (exported / "generation_config.json").read_bytes() == base.read_bytes()


def test_the_recipe_and_the_card_say_how_it_was_made(exported: Path) -> None:
    assert load_recipe(exported / "recipe.yaml").key() == merged().key()
    card = (exported / "README.md").read_text()
    assert "\nlibrary_name: transformers\n" in card.partition("\n---\n")[0]
    for text in (
        *(Path(ref.path).name for ref in (BASE, *EXPERTS)),
        "merge_method: task_arithmetic",
        "| holdout | 0.9000 |",
    ):
        assert text in card
    config = json.loads((exported / "config.json").read_text())
    assert config["dtype"] == "float32" and "torch_dtype" not in config


def test_files_are_readable_by_others_and_nothing_is_left_over(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    base = {path.name for path in Path(BASE.path).iterdir()}
    assert names == base | {"README.md", "recipe.yaml", "reproduce.json"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in exported.iterdir())
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]


@pytest.mark.parametrize("kind", list(BUILDERS))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_shards_hold_the_same_tensors(kind: str, tmp_path: Path) -> None:
    folders = save_family(kind, tmp_path / "family")
    family = Family(folders.base, folders.experts)
    sources = tuple(Source(ref, {"weight": 0.3}) for ref in folders.experts)
    recipe = recipe_of_models("task_arithmetic", folders.base, sources, {}, out_dtype="float32")
    digests = {
        export_recipe(recipe, family, tmp_path / "one"),
        export_recipe(recipe, family, tmp_path / "many", shard_bytes=3000),
    }
    assert len(digests) == 1, "the fingerprint does not depend on the file layout"
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    count = len(shards)
    assert count > 2 and [p.name for p in shards] == [
        f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)
    ]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in shards)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    held: dict[str, str] = {}
    size = 0
    for path in shards:
        with safe_open(path, "pt") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 (a safetensors handle)
            held |= dict.fromkeys(file.keys(), path.name)
        nbytes = sum(tensor.nbytes for tensor in tensors)
        assert nbytes <= 3000 or len(tensors) == 1
        size += nbytes
    assert index == {"metadata": {"total_size": size}, "weight_map": held}
    load = type(BUILDERS[kind]()).from_pretrained
    one, many = load(tmp_path / "one"), load(tmp_path / "many")
    for (name, ours), (_, theirs) in zip(one.named_parameters(), many.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_out_dtype_is_cast_once_and_written_in_the_config(family: Family, tmp_path: Path) -> None:
    export_recipe(merged("bfloat16"), family, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    exact = dict(Materializer(family).tensors(merged("bfloat16")))
    assert all(torch.equal(p, exact[name].to(torch.bfloat16)) for name, p in model.named_parameters())


def test_without_an_out_dtype_it_is_that_of_the_files(family: Family, tmp_path: Path) -> None:
    export_recipe(merged(None), family, tmp_path / "out")
    stored = family.base.checkpoint.dtype("model.norm.weight")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.get_slice("model.norm.weight").get_dtype() == stored == "BF16"


def test_merge_recipe_reads_the_file_and_gives_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    first = merge_recipe(exported / "recipe.yaml", tmp_path / "a")
    assert first == merge_recipe(exported / "recipe.yaml", tmp_path / "deep" / "b")
    ours = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert (
        ours
        == (exported / "model.safetensors").read_bytes()
        == (tmp_path / "deep" / "b" / "model.safetensors").read_bytes()
    )


def test_a_used_folder_is_refused_and_left_alone(family: Family, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_recipe(merged(), family, out)  # an empty one is fine
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(ConfigError, match="out: already exists and is not empty"):
        export_recipe(merged(), family, out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="already exists"):
        export_recipe(merged(), family, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("size", [300_000, 3000, 100])
@pytest.mark.parametrize("shard_bytes", [10**9, 200_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    family: Family, tmp_path: Path, size: int, shard_bytes: int
) -> None:
    """300 kB stops at the weights (or fits a shard), 3 kB at the tokenizer or the weights, 100 bytes at once."""
    if size > shard_bytes:
        pytest.skip("every file fits")
    with disk_of(size), pytest.raises(RunError, match="limit on the size of a file") as caught:
        export_recipe(merged(), family, tmp_path / "out", shard_bytes=shard_bytes)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(family: Family, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        export_recipe(merged(), family, tmp_path / "file" / "out")


def test_a_merge_that_is_not_finite_leaves_nothing(family: Family, tmp_path: Path) -> None:
    recipe = recipe_of_models("task_arithmetic", BASE, (Source(EXPERTS[0], {"weight": math.inf}),), {})
    with pytest.raises(CandidateError, match="model."):
        export_recipe(recipe, family, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_half_written_folder_is_replaced(family: Family, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "model.safetensors").write_bytes(b"half")
    export_recipe(merged(), family, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_weights_of_the_base_folder_stay_behind(tmp_path: Path) -> None:
    """A base folder may hold other formats and training leftovers: gigabytes of another model's weights."""
    base = Path(shutil.copytree(BASE.path, tmp_path / "base"))
    stray = (
        "pytorch_model.bin",
        "consolidated.00.pth",
        "optimizer.pt",
        "model.gguf",
        "tf_model.h5",
        "flax_model.msgpack",
    )
    for name in stray:
        (base / name).write_bytes(b"weights")
    (base / "checkpoint-500").mkdir()
    (base / "checkpoint-500" / "optimizer.pt").write_bytes(b"weights")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "modeling_own.py").write_text("# code of the model")
    ref = ModelRef(str(base))
    recipe = recipe_of_models("task_arithmetic", ref, (Source(EXPERTS[0], {"weight": 0.4}),), {}, out_dtype="float32")
    export_recipe(recipe, Family(ref, EXPERTS[:1]), tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"chat_template.jinja", "modeling_own.py", "tokenizer.json"} <= found
    assert not found & set(stray), "only the merged weights belong there"


def test_an_output_inside_the_base_folder_does_not_copy_itself(tmp_path: Path) -> None:
    base = Path(shutil.copytree(BASE.path, tmp_path / "base"))
    ref = ModelRef(str(base))
    recipe = recipe_of_models("task_arithmetic", ref, (Source(EXPERTS[0], {"weight": 0.4}),), {}, out_dtype="float32")
    export_recipe(recipe, Family(ref, EXPERTS[:1]), base / "merged")
    assert not [path for path in (base / "merged").rglob("*") if path.is_dir()]
