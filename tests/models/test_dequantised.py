"""The plain copy of a quantised checkpoint: made once, complete or not at all, with the user's names and hashes."""

import json
import logging
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import ConfigError, ExpertError, RunError
from evomerge.export import merge_recipe
from evomerge.models import Checkpoint, Family, load_model, open_checkpoint, plain_folder
from evomerge.models.dense_file import write_dense_file
from evomerge.models.dense_plan import DEQUANTISED_DTYPE, DenseTensor
from evomerge.models.dequantised import complete
from evomerge.models.quantised import fp8
from evomerge.recipes import ModelRef, load_recipe, recipe_of_models
from evomerge.recipes.recipe import Recipe, Source
from evomerge.submission import refuse_quantised_base
from tests.families import save_adapter, save_family
from tests.quantised_files import quantise


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_family("llama", tmp_path, experts=2)
    return tmp_path / "base"


def recipe(base: Path, *, dtype: str | None = "float32") -> Recipe:
    expert = ModelRef(str(base.parent / "e1"))
    return recipe_of_models(
        "task_arithmetic", ModelRef(str(base)), (Source(expert, {"weight": 0.5}),), {}, out_dtype=dtype
    )


def test_a_plain_folder_is_itself(base: Path) -> None:
    assert plain_folder(base) == base and type(open_checkpoint(base)) is Checkpoint


def test_the_copy_has_the_dequantised_tensors(base: Path) -> None:
    right = quantise(base)
    (base / "tokenizer.json").write_text("{}")
    (base / "quantize_config.json").write_text("{}")
    folder = plain_folder(base)
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint) == set(right)
    for name, tensor in right.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert torch.equal(checkpoint.tensor(name), tensor) and checkpoint.tensor(name).dtype == tensor.dtype
    assert checkpoint.sha256 == Checkpoint(base).sha256
    assert "quantization_config" not in checkpoint.config and checkpoint.config["dtype"] == "bfloat16"
    assert (folder / "tokenizer.json").read_text() == "{}" and not (folder / "quantize_config.json").exists()
    assert {name: checkpoint.dtype(name) for name in right} == {name: Checkpoint(folder).dtype(name) for name in right}


def test_headers_need_no_weights(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    quantise(base)
    family = Family(ModelRef(str(base)), [ModelRef(str(base.parent / "e1"))])
    folder = plain_folder(base)
    assert family.base.parameter_count and family.layout.stacks and not (folder / "model.safetensors").exists()
    with caplog.at_level(logging.WARNING):
        family.base.tensor("model.layers.0.mlp.up_proj.weight")
    assert "fp8 in blocks of 4×4, dequantised once to bfloat16" in caplog.text and str(folder) in caplog.text


def test_it_is_done_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise(base)
    load_model(plain_folder(base), dtype="float32")
    monkeypatch.setattr("evomerge.models.dequantised.write_dense_file", lambda *_: pytest.fail("again"))
    load_model(plain_folder(base), dtype="float32")
    (base / "tokenizer.json").write_text("{}")  # no weights
    assert (plain_folder(base) / "model.safetensors").exists()


def test_other_weights_get_another_copy(base: Path) -> None:
    quantise(base)
    first = plain_folder(base)
    tensors = load_file(base / "model.safetensors")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, base / "model.safetensors")
    assert plain_folder(base) != first


def test_the_live_model_is_what_transformers_loads(base: Path) -> None:
    right = quantise(base, "float32")
    model = load_model(plain_folder(base), dtype="float32")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in right.items())


def test_a_merge_is_that_of_the_dequantised_folder(base: Path, tmp_path: Path) -> None:
    right = quantise(base, "float32")
    merge_recipe(recipe(base), tmp_path / "out")
    quantised = load_file(tmp_path / "out" / "model.safetensors")
    save_file(right, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    del config["quantization_config"]
    (base / "config.json").write_text(json.dumps(config))
    merge_recipe(recipe(base), tmp_path / "again")
    plain = load_file(tmp_path / "again" / "model.safetensors")
    assert quantised.keys() == plain.keys() and all(torch.equal(quantised[name], plain[name]) for name in plain)


def test_the_recipe_says_what_was_dequantised(base: Path, tmp_path: Path) -> None:
    quantise(base)
    merge_recipe(recipe(base), tmp_path / "out")
    written = load_recipe(tmp_path / "out" / "recipe.yaml")
    note = {"format": "fp8 in blocks of 4×4", "sha256": Checkpoint(base).sha256, "dtype": "bfloat16"}
    assert written.notes["dequantised"] == {str(base): note} and str(written.base) == str(base)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    weights = {"config.json", "generation_config.json", "model.safetensors"}
    assert names == {*weights, "README.md", "recipe.yaml", "reproduce.json"}


def test_another_dtype_than_the_recipe_was_made_with(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantise(base)
    merge_recipe(recipe(base), tmp_path / "out")
    monkeypatch.setenv(DEQUANTISED_DTYPE, "float32")
    with pytest.raises(ConfigError, match="the recipe was made with bfloat16; set EVOMERGE_DEQUANTISED_DTYPE=bfloat16"):
        merge_recipe(tmp_path / "out" / "recipe.yaml", tmp_path / "again")
    family = Family(ModelRef(str(base)), [])
    assert family.hashes() == {str(base): f"{Checkpoint(base).sha256} as float32"}
    monkeypatch.setenv(DEQUANTISED_DTYPE, "bfloat16")
    assert Family(ModelRef(str(base)), []).hashes() == {str(base): Checkpoint(base).sha256}
    monkeypatch.setenv(DEQUANTISED_DTYPE, "int8")
    with pytest.raises(ConfigError, match="EVOMERGE_DEQUANTISED_DTYPE=int8: choose one of"):
        plain_folder(base)


def test_a_kill_leaves_nothing_half(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise(base)
    folder = plain_folder(base)
    (folder / "model.safetensors.0.partial").write_text("of a process that was killed")

    def interrupted(path: Path, tensors: object) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evomerge.models.dequantised.write_dense_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_model(folder, dtype="float32")
    assert not list(folder.glob("model*"))
    load_model(folder, dtype="float32")
    assert [file.name for file in folder.glob("model*")] == ["model.safetensors"]


def test_others_wait_for_the_one_that_is_writing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise(base)
    folder, written = plain_folder(base), []

    def slowly(path: Path, tensors: Mapping[str, DenseTensor]) -> None:
        written.append(path)
        time.sleep(0.2)
        write_dense_file(path, tensors)

    monkeypatch.setattr("evomerge.models.dequantised.write_dense_file", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(complete, [folder] * 4))
    assert len(written) == 1 and (folder / "model.safetensors").is_file()


def test_a_full_disk_is_said_before_the_work(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise(base)
    folder = plain_folder(base)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))  # type: ignore[attr-defined]
    with pytest.raises(
        RunError, match=r"needs 0\.0 MB in .* where 0\.0 MB are free; free disk space, or set EVOMERGE_CACHE"
    ):
        load_model(folder, dtype="float32")


def test_a_cache_that_cannot_be_written(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise(base)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="set EVOMERGE_CACHE to a folder that can be written"):
        plain_folder(base)


@pytest.mark.parametrize("which", ["method", "tensor", "nothing"])
def test_what_cannot_be_dequantised_is_named(base: Path, which: str) -> None:
    quantise(base)
    config = json.loads((base / "config.json").read_text())
    tensors = load_file(base / "model.safetensors")
    line = "base: quantised by quip, which cannot be dequantised here"
    if which == "method":
        config["quantization_config"] = {"quant_method": "quip"}
    elif which == "tensor":
        del tensors["model.layers.1.mlp.up_proj.weight_scale_inv"]
        line = "base: model.layers.1.mlp.up_proj.weight is F8_E4M3, and nothing beside it says how to dequantise it"
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("_scale_inv")}
        line = "base: config.json says fp8 in blocks of 4×4, but no tensor is"
    (base / "config.json").write_text(json.dumps(config))
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(ExpertError, match=line):
        plain_folder(base)


def test_a_tensor_that_is_malformed_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise(base)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = 4
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExpertError, match=r"base: its settings of fp8 cannot be read \(TypeError.*download"):
        plain_folder(base)
    config["quantization_config"]["weight_block_size"] = [4, 4]
    (base / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(fp8, "BIAS", "wrong")
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"
    tensors[name] = torch.full_like(tensors[name], 120, dtype=torch.uint8)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(
        ExpertError, match=r"model\.layers\.0\.mlp\.up_proj\.weight: cannot be dequantised \(.*download"
    ):
        load_model(plain_folder(base), dtype="float32")


def test_an_adapter_on_a_quantised_base(base: Path, tmp_path: Path) -> None:
    ref, _ = save_adapter("llama", ModelRef(str(base)), tmp_path / "adapter", rank=2, seed=0)
    right = quantise(base, "float32")
    family = Family(ModelRef(str(base)), [ref])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(family.base.tensor(name), right[name])
    assert family.update(ref, name) is not None and set(family.dequantised) == {str(base)}


def test_a_pack_of_a_quantised_expert_ships_merged_tensors_and_of_a_quantised_base_is_refused(base: Path) -> None:
    quantise(base.parent / "e1")
    expert = ModelRef(str(base.parent / "e1"))
    plain = Family(ModelRef(str(base)), [expert])
    refuse_quantised_base(plain)
    assert {plain.stored_input(expert, name) for name in plain.base.destination} == {"computed"}
    quantise(base)
    with pytest.raises(ConfigError, match="base: quantised, and the starter kit loads the base by itself"):
        refuse_quantised_base(Family(ModelRef(str(base)), [expert]))


def test_an_adapter_on_another_base_that_is_quantised(base: Path, tmp_path: Path) -> None:
    quantise(base.parent / "e1", "float32")
    ref, _ = save_adapter("llama", ModelRef(str(base)), tmp_path / "adapter", rank=2, seed=0)
    moved = ModelRef(str(base.parent / "e1"), adapter=ref.adapter)
    family = Family(ModelRef(str(base)), [ref, moved])
    assert set(family.dequantised) == {str(base.parent / "e1")}
    weights = Checkpoint(base.parent / "e1").sha256
    assert family.hashes()[str(moved)] == f"{family.hashes()[str(ref)]} on {weights}"
