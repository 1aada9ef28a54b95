"""A hub that does not answer costs seconds, and one that is switched off is said to be."""

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from evomerge import hub
from evomerge.errors import ExpertError, TaskError
from evomerge.models.checkpoint import fetch
from evomerge.scoring.tasks.loading import TaskLoader
from evomerge.scoring.tasks.task_entries import read_tasks

SIZES = {"search": 1, "select": 1, "holdout": 1}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the process has found out about its hub, and what it then sets, is this test's own."""
    monkeypatch.setattr(hub, "OFFLINE_FLAGS", hub.OFFLINE_FLAGS[:1])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    hub.offline_reason.cache_clear()
    yield
    hub.offline_reason.cache_clear()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes every call and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "TIMEOUT", 0.2)
        yield


def test_a_hub_that_does_not_answer_is_asked_once(silent: None) -> None:
    begun = time.monotonic()
    for _ in range(3):
        with pytest.raises(
            ExpertError, match=r"^owner/name: .*127\.0\.0\.1:\d+ does not answer .* check the spelling$"
        ):
            fetch("owner/name", None)
    assert time.monotonic() - begun < 10
    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1", "libraries and workers know"


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_a_switch_is_named(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(switch, "1")
    with pytest.raises(ExpertError, match=f"offline: {switch} is set, and it is not in the cache"):
        fetch("owner/name", None)


def test_a_data_set_of_a_silent_hub(silent: None) -> None:
    spec = {"dataset_path": "owner/name", "test_split": "test", "output_type": "multiple_choice"}
    with pytest.raises(TaskError, match="task 'mine' cannot fetch its data set: offline: .* does not answer"):
        TaskLoader().load(read_tasks([{"name": "mine", "spec": spec}], SIZES)[0])


def test_files_need_no_hub(silent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_reason", lambda: pytest.fail("asked"))
    (tmp_path / "a.jsonl").write_text('{"q": "a", "c": ["b", "c"], "g": 0}\n')
    spec = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "a.jsonl")}, "cache_dir": str(tmp_path / "data")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "q",
        "doc_to_choice": "c",
        "doc_to_target": "g",
    }
    assert list(TaskLoader().load(read_tasks([{"name": "mine", "spec": spec}], SIZES)[0])) == ["mine"]


class Answer(Exception):
    """What the hub's client raises for an answer with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} Client Error.\n\nmore")
        self.response = SimpleNamespace(status_code=status)


class GatedRepoError(Answer):
    """As huggingface_hub names it."""


@pytest.mark.parametrize(
    ("raised", "remedy"),
    [
        (GatedRepoError(403), "(403 Client Error.); it is gated: accept its terms on its page, then `hf auth login`"),
        (Answer(429), "(429 Client Error.); the hub limits your requests: wait some minutes, or `hf auth login`"),
        (Answer(503), "(503 Client Error.); the hub fails: try again later, or give a local folder"),
        (Answer(404), "(404 Client Error.); check the spelling, and `hf auth login` if it is private"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_answer_of_the_hub_has_its_remedy(
    raised: Answer, remedy: str, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        if not wrapped:
            raise raised
        raise FileNotFoundError("not in the cache") from raised

    monkeypatch.setattr("evomerge.models.checkpoint.offline_reason", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for name in ("owner/model", "owner/model/file.gguf"):
        with pytest.raises(ExpertError, match=re.escape(remedy)):
            fetch(name, None)
