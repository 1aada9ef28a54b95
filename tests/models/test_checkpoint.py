"""Lazy tensors of one folder: one file or shards, headers without weights, clear words for broken files."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import ExpertError
from evomerge.models.checkpoint import Checkpoint, fetch, open_safetensors, read_json

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    folder = tmp_path / "single"
    folder.mkdir()
    save_file(TENSORS, folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    where = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    for name, file in where.items():
        save_file({name: TENSORS[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


@pytest.mark.parametrize("layout", ["single", "sharded"])
def test_both_layouts_hold_the_same(layout: str, request: pytest.FixtureRequest) -> None:
    checkpoint = Checkpoint(request.getfixturevalue(layout))
    assert sorted(checkpoint) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert name in checkpoint
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert torch.equal(checkpoint.tensor(name), tensor) and checkpoint.tensor(name).dtype == tensor.dtype
    assert [checkpoint.dtype(name) for name in sorted(TENSORS)] == ["F32", "BF16"]
    assert "c.weight" not in checkpoint


def test_opening_reads_no_weight(single: Path) -> None:
    """The data is garbage of the right length: only the header can have been read."""
    path = single / "model.safetensors"
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:header] + b"\xff" * (len(data) - header))
    assert Checkpoint(single).shape("a.weight") == (2, 3)


def test_a_single_file_wins_over_the_shards_of_another_save(sharded: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As transformers has it; whoever looks into the folder is told."""
    save_file({"new": torch.zeros(1)}, sharded / "model.safetensors")
    assert list(Checkpoint(sharded)) == ["new"]
    Checkpoint(sharded)
    (said,) = caplog.messages
    assert said.startswith(f"{sharded}: model.safetensors is read, as transformers and peft do; model-00001-of-0000")
    assert said.endswith("beside it is not")


def test_an_index_whose_shards_are_gone_does_not_disturb_a_single_file(
    single: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = {"metadata": {}, "weight_map": {"old": "model-00001-of-00002.safetensors"}}
    (single / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sorted(Checkpoint(single)) == sorted(TENSORS)
    assert "model.safetensors.index.json beside it is not" in caplog.text


def test_a_pickled_copy_beside_safetensors_is_not_read(sharded: Path, caplog: pytest.LogCaptureFixture) -> None:
    (sharded / "pytorch_model.bin").write_bytes(b"old")
    assert sorted(Checkpoint(sharded)) == sorted(TENSORS)
    assert "shards of model.safetensors.index.json is read" in caplog.text and "pytorch_model.bin beside" in caplog.text


def test_a_variant_alone_is_not_what_transformers_would_load(single: Path) -> None:
    (single / "model.safetensors").rename(single / "model.fp16.safetensors")
    with pytest.raises(ExpertError, match="only the variant model.fp16.safetensors is there"):
        Checkpoint(single)


def test_a_tensor_in_two_shards_is_that_of_the_last_one(sharded: Path) -> None:
    """transformers reads every tensor of every shard, whatever the index says of it."""
    last = sorted(sharded.glob("*.safetensors"))[-1]
    first_name = next(iter(Checkpoint(sharded)))
    held = {**load_file(last), first_name: torch.full((2,), 7.0)}
    save_file(held, last)
    assert torch.equal(Checkpoint(sharded).tensor(first_name), torch.full((2,), 7.0))


def test_sha256_is_of_the_files_in_the_order_of_their_names(single: Path, sharded: Path) -> None:
    for folder in (single, sharded):
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        assert Checkpoint(folder).sha256 == digest.hexdigest()


def test_one_flipped_byte_changes_the_hash(single: Path) -> None:
    before = Checkpoint(single).sha256
    path = single / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Checkpoint(single).sha256 != before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "truncated"),
        (b"\x10", "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>not found</html>", "truncated or not safetensors"),
    ],
)
def test_a_broken_file_is_told_apart_in_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExpertError, match=reason) as caught:
        open_safetensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", [1, 10, 40])
def test_a_truncated_file_is_refused_at_opening(single: Path, lost: int) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(ExpertError, match="truncated"):
        Checkpoint(single)


def test_an_index_may_list_what_no_shard_holds(sharded: Path) -> None:
    """transformers goes by the shards, and misses what it needs and does not find."""
    index = sharded / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    index.write_text(
        json.dumps({"weight_map": {**where, "old.inv_freq": where["a.weight"], "a.weight": where["b.weight"]}})
    )
    assert sorted(Checkpoint(sharded)) == sorted(TENSORS)


@pytest.mark.parametrize("broken", [[], None, {}, {"a.weight": 3}])
def test_an_index_without_files_is_named(sharded: Path, broken: object) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": broken}))
    with pytest.raises(ExpertError, match=r"model.safetensors.index.json: its weight_map names no files"):
        Checkpoint(sharded)


def test_a_file_that_the_configuration_names_is_read_first(single: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"best": torch.ones(1)}, single / "best.safetensors")
    (single / "config.json").write_text(json.dumps({"transformers_weights": "best.safetensors"}))
    assert list(Checkpoint(single)) == ["best"]
    assert "best.safetensors is read, as transformers and peft do; model.safetensors beside it is not" in caplog.text


@pytest.mark.parametrize("name", ["../best.safetensors", "best.bin", 3])
def test_a_file_elsewhere_or_of_another_format_is_refused(single: Path, name: object) -> None:
    (single / "config.json").write_text(json.dumps({"transformers_weights": name}))
    with pytest.raises(ExpertError, match=r"config.json: transformers_weights is .*, not a safetensors file"):
        Checkpoint(single)


def test_a_folder_without_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match=r"no model\.safetensors"):
        Checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ExpertError, match="only pytorch_model.bin is there: load it with transformers"):
        Checkpoint(tmp_path)


def test_fetch_takes_a_folder_as_it_is(tmp_path: Path) -> None:
    assert fetch(str(tmp_path), None) == tmp_path
    with pytest.raises(ExpertError, match="drop the @v1"):
        fetch(str(tmp_path), "v1")


@pytest.mark.parametrize("path", ["/no/such", "./no/such", "nowhere", "a/b/c"])
def test_fetch_refuses_what_is_neither_folder_nor_hub_id(path: str) -> None:
    with pytest.raises(ExpertError, match="no such folder"):
        fetch(path, None)


def test_fetch_of_a_hub_model_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ExpertError, match="nobody/no-such-model") as caught:
        fetch("nobody/no-such-model", "main")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "reason"), [(None, "missing"), ("{", "not a JSON object"), ("3", "not a JSON")])
def test_read_json_names_the_file(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ExpertError, match=rf"config\.json: {reason}"):
        read_json(path)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/tmp/elsewhere.safetensors", "a/../../b.safetensors"])
def test_an_index_may_not_name_files_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ExpertError, match="outside of its folder"):
        Checkpoint(folder)
