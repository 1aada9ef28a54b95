"""GGUF files as bases and experts: the weights and tokenizer that transformers makes of them, one tensor at a time."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from evomerge.errors import ExpertError
from evomerge.export import merge_recipe
from evomerge.models import (
    Family,
    dequantised,
    fetch,
    load_model,
    load_tokenizer,
    open_checkpoint,
    pin_revisions,
    plain_folder,
)
from evomerge.models.dense_plan import DEQUANTISED_DTYPE
from evomerge.recipes import ModelRef, load_recipe, recipe_of_models
from evomerge.recipes.recipe import Source
from evomerge.rules.judged_model import JudgedModel
from evomerge.rules.size import judge_size
from tests.gguf_files import model, write, write_mixture

pytestmark = pytest.mark.filterwarnings("ignore")  # of gguf's reader and of transformers' loader


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(model(), tmp_path / "tiny.gguf")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_weights_are_those_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str
) -> None:
    monkeypatch.setenv(DEQUANTISED_DTYPE, dtype)
    file = write(model(), tmp_path / "tiny.gguf", GGMLQuantizationType[kind])
    options = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    right = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype), **options).state_dict()
    checkpoint = open_checkpoint(plain_folder(file))
    assert set(checkpoint) == set(right) - {"lm_head.weight"} and checkpoint.origin.format == f"GGUF {kind}"
    for name in checkpoint:
        assert torch.equal(checkpoint.tensor(name), right[name]), name
    live = load_model(plain_folder(file), dtype=dtype).state_dict()
    assert all(torch.equal(live[name], right[name]) for name in right)


def test_the_tokenizer_is_that_of_transformers(file: Path) -> None:
    right = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    found = load_tokenizer(plain_folder(file))
    assert found.get_vocab() == right.get_vocab() and found("abz")["input_ids"] == right("abz")["input_ids"]


def test_the_hash_is_that_of_the_file(file: Path) -> None:
    import hashlib

    assert open_checkpoint(plain_folder(file)).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_merge_of_files_and_folders(file: Path, tmp_path: Path) -> None:
    other = write(model(seed=1), tmp_path / "other.gguf", GGMLQuantizationType.Q8_0)
    model(seed=2).save_pretrained(tmp_path / "plain")
    base = pin_revisions(ModelRef.parse(str(file)))
    sources = tuple(Source(ModelRef.parse(str(path)), {"weight": 0.5}) for path in (other, tmp_path / "plain"))
    merge_recipe(recipe_of_models("task_arithmetic", base, sources, {}, out_dtype="float32"), tmp_path / "out")
    written = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert set(written.notes["dequantised"]) == {str(file), str(other)} and str(written.base) == str(file)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    family = Family(base, [source.model for source in sources])
    name = "model.layers.1.mlp.down_proj.weight"
    start = family.base.tensor(name).float()
    experts = [family.update(source.model, name) for source in sources]
    right = start + sum(0.5 * (expert.float() - start) for expert in experts)  # type: ignore[union-attr]
    torch.testing.assert_close(found.state_dict()[name], right)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tiny-00001-of-00003.gguf", "one part of several; join them first with llama-gguf-split --merge"),
        ("text.gguf", "not a GGUF file; download it again"),
        ("none.gguf", "no such file; give a file, or owner/name/file of the hub"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, file: Path, name: str, line: str) -> None:
    if name.startswith("tiny"):
        file.rename(tmp_path / name)
    elif name.startswith("text"):
        (tmp_path / name).write_text("version https://git-lfs")
    with pytest.raises(ExpertError, match=f"{name}: {line}"):
        plain_folder(fetch(str(tmp_path / name), None))


def test_an_architecture_that_transformers_does_not_convert(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "new.gguf", "hyena")
    writer.add_tensor("a", torch.zeros(32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ExpertError, match=r"new\.gguf: transformers cannot convert it \(.*hyena.*\); give the model"):
        plain_folder(tmp_path / "new.gguf")


def test_a_file_has_no_revision(file: Path) -> None:
    with pytest.raises(ExpertError, match="a local file has no revisions"):
        fetch(str(file), "main")


def test_the_whole_model_is_loaded_where_single_tensors_cannot_be_converted(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one_by_one = open_checkpoint(plain_folder(file))
    tensors = {name: one_by_one.tensor(name) for name in one_by_one}
    monkeypatch.setattr("evomerge.models.gguf_file.ONE_BY_ONE", set())
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "other"))
    dequantised._plan.cache_clear()
    whole = open_checkpoint(plain_folder(file))
    assert set(whole) == set(tensors) and all(torch.equal(whole.tensor(name), tensors[name]) for name in tensors)
    assert not dequantised._plan.cache_info().currsize, "the loaded model would stay in memory"


def test_a_mixture_of_experts_has_a_tensor_for_each_expert(tmp_path: Path) -> None:
    file = write_mixture(tmp_path / "mixture.gguf")
    options = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    right = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, **options).state_dict()
    checkpoint = open_checkpoint(plain_folder(file))
    assert checkpoint.shape("model.layers.0.mlp.experts.3.down_proj.weight") == (64, 768)
    live = load_model(plain_folder(file), dtype="bfloat16").state_dict()
    assert live.keys() == right.keys() and all(torch.equal(live[name], right[name]) for name in right)


def test_a_file_of_the_hub(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    asked = []

    def download(repository: str, name: str, **options: object) -> str:
        asked.append((repository, name, options["revision"]))
        return str(file.rename(snapshot / "tiny.gguf") if file.exists() else snapshot / "tiny.gguf")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("evomerge.models.checkpoint.offline_reason", lambda: None)
    ref = pin_revisions(ModelRef.parse("owner/name/tiny.gguf@main"))
    assert str(ref) == f"owner/name/tiny.gguf@{'a' * 40}" and asked == [("owner/name", "tiny.gguf", "main")]
    assert Family(ref, []).base.parameter_count


def test_a_size_rule_counts_its_parameters(file: Path) -> None:
    verdict = judge_size(JudgedModel("base", str(file)), 8)
    assert verdict.status == "ok" and "from the headers of its files" in verdict.reason
