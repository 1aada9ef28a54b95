"""`merge --push`: refusals before the merge, one commit on a local hub, and a failed upload that is repeated."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.errors import ConfigError, EvomergeError, RunError
from evomerge.export.push import PushTarget
from evomerge.recipes import ModelRef, Source, dump_recipe, recipe_of_models
from tests.conftest import ROOT, Command, Said
from tests.fake_hub import FakeHub, fake_hub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def target(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> PushTarget:
    """A target whose checks ask the hub of this machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("evomerge.export.push.offline_reason", lambda: None)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return PushTarget("me/merge")


def push(hub: FakeHub, recipe: Path, out: Path, *options: str, token: str = "hf_secret") -> Said:
    """The command in a process of its own, whose hub is that of this machine."""
    away = {"HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    away |= {"HF_HOME": str(out.parent / "hub"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "evomerge", "merge", str(recipe), str(out), "--push", "me/merge", *options]
    done = subprocess.run(command, env=os.environ | away, capture_output=True, text=True, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def test_a_failed_upload_leaves_the_folder_and_is_repeated_without_a_merge(
    hub: FakeHub, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    hub.refuses_commits = True
    failed = push(hub, finished / "recipe.yaml", out, "--private")
    assert failed.code == 1 and "repeat the command to push it" in failed.err, failed
    assert "Licence: to be decided" in failed.err and "hf_secret" not in failed.err
    assert (out / "model.safetensors").is_file() and not hub.files
    before = (out / "model.safetensors").stat().st_mtime_ns
    hub.refuses_commits = False
    again = push(hub, finished / "recipe.yaml", out, "--private")
    assert again.code == 0, again
    assert "not merged again" in again.out and f"pushed: {hub.address}/me/merge" in again.out
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    made = hub.created[-1]
    assert made.get("private") is True or made.get("visibility") == "private"
    assert set(hub.files) == {path.name for path in out.iterdir()}
    assert hub.files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    fingerprint = json.loads(hub.files["reproduce.json"])["fingerprint"]
    assert hub.messages == [f"Merge by evomerge, fingerprint {fingerprint[:16]}"]
    for name in ("README.md", "recipe.yaml", "reproduce.json", "config.json"):
        text = hub.files[name].decode()
        assert str(ROOT) not in text and str(tmp_path) not in text and "hf_secret" not in text


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with the files of an export whose models were on another machine."""
    folder = tmp_path / "merged"
    folder.mkdir()
    sources = tuple(Source(ModelRef(f"/home/someone/models/{name}"), {"weight": 0.5}) for name in ("math", "law"))
    recipe = recipe_of_models("linear", ModelRef("/home/someone/models/base"), sources, {}, out_dtype="float32")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_weights_of_an_earlier_model_are_deleted_by_the_same_commit(
    target: PushTarget, hub: FakeHub, written: Path
) -> None:
    """A loader prefers model.safetensors to shards, or shards of one model to the file of the other."""
    kept = {"notes.md": b"mine", "gguf/model.gguf": b"", "old/model.safetensors": b""}
    old = (
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "adapter_config.json",
        "pytorch_model.bin",
    )
    hub.files = {**kept, **dict.fromkeys(old, b"old")}
    target.push(written)
    assert set(hub.files) == {*kept, "model.safetensors", "recipe.yaml"} and len(hub.messages) == 1


def test_a_public_repository_gets_no_private_upload(target: PushTarget, hub: FakeHub, written: Path) -> None:
    hub.is_private = False
    with pytest.raises(RunError, match="is public"):
        PushTarget("me/merge", private=True).push(written)
    assert not hub.files
    target.push(written)
    assert hub.files


def test_folders_of_another_machine_are_named_without_their_paths(
    target: PushTarget, hub: FakeHub, written: Path
) -> None:
    target.push(written)
    text = hub.files["recipe.yaml"].decode()
    assert "someone" not in text and "None" not in text and "model: math" in text


def test_another_folder_is_not_pushed(hub: FakeHub, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "notes.txt").write_text("mine")
    said = push(hub, finished / "recipe.yaml", tmp_path / "merged")
    assert said.code == 2 and "not empty" in said.err and not hub.created


def test_no_token_is_refused_before_the_merge(
    command: Command, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    said = command("merge", str(finished / "recipe.yaml"), "out", "--push", "me/merge")
    assert "hf auth login" in said.refused(2) and not (tmp_path / "out").exists()


def test_no_network_is_refused_before_the_merge(
    command: Command, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("evomerge.export.push.offline_reason", lambda: "offline: HF_HUB_OFFLINE is set")
    said = command("merge", str(finished / "recipe.yaml"), "out", "--push", "me/merge")
    assert "HF_HUB_OFFLINE is set" in said.refused(1) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["merge", "me/", "/merge", "me/a/b", "me/a--b", "me/a..b", "me/x.git", "me/a b", "me/-a"]
)
def test_names_that_the_hub_refuses(name: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        PushTarget(name).refuse_unreachable()


def test_a_token_that_may_not_write_there_is_refused(target: PushTarget, hub: FakeHub) -> None:
    target.refuse_unreachable()
    PushTarget("us/merge").refuse_unreachable()
    with pytest.raises(ConfigError, match="the token is of me; give one of the owners me, us"):
        PushTarget("they/merge").refuse_unreachable()
    hub.user["auth"] = {"accessToken": {"role": "read"}}
    with pytest.raises(ConfigError, match="can only read"):
        target.refuse_unreachable()
    assert not hub.created


def test_a_token_that_the_hub_refuses(target: PushTarget, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "answer", lambda *_: (401, {"error": "Invalid credentials"}))
    with pytest.raises(EvomergeError, match="hf auth login"):
        target.refuse_unreachable()


def test_a_gguf_file_is_not_pushed(command: Command) -> None:
    assert "leave one of the two out" in command(
        "merge", "r.yaml", "o.gguf", "--push", "me/m", "--format", "gguf"
    ).refused(2)


def test_an_upload_that_fails_names_the_folder(target: PushTarget, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="written, but not pushed"):
        target.push(tmp_path)
