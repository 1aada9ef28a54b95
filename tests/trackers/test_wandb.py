"""wandb, with a stand-in for its module: what is sent, and what a resumed run is not sent again."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evomerge import trackers


class FakeRun:
    def __init__(self, step: int) -> None:
        self.step = step
        self.history: dict[int, dict[str, float]] = {}
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None
        self.id, self.dir, self.offline = "ab", "", True
        self.artifacts: list[list[str]] = []

    def log(self, values: Mapping[str, float], step: int, commit: bool) -> None:
        assert step >= self.step and commit  # wandb drops a step that is past, with a warning
        self.history[step], self.step = dict(values), step + 1

    def log_artifact(self, artifact: "FakeArtifact") -> None:
        self.artifacts.append(artifact.files)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeArtifact:
    def __init__(self, name: str, type: str) -> None:
        assert (name, type) == ("evomerge-ab", "merge")
        self.files: list[str] = []

    def add_file(self, path: str) -> None:
        self.files.append(path)


class FakeWandB:
    """Runs by id, each continued where it stood."""

    Artifact = FakeArtifact

    def __init__(self) -> None:
        self.runs: dict[str, list[FakeRun]] = {}
        self.settings: list[dict[str, Any]] = []

    def init(self, **given: Any) -> FakeRun:
        earlier = self.runs.setdefault(given["id"], [])
        earlier.append(FakeRun(earlier[-1].step if earlier else 0))
        self.settings.append(given)
        return earlier[-1]

    def Settings(self, **given: Any) -> Any:
        return SimpleNamespace(**given)

    def Table(self, columns: list[str], data: list[list[Any]]) -> Any:
        return SimpleNamespace(columns=columns, data=data)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandB]:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setattr("evomerge.trackers._registry.find_spec", lambda name: name)  # as if it were installed
    yield fake


def test_a_resumed_search_continues_the_folders_run(wandb: FakeWandB, tmp_path: Path) -> None:
    from evomerge.trackers.wandb import create

    first = create(tmp_path, {"name": "mine"})
    for step in range(3):
        first.log(step, {"search/best": step / 10})
    first.close()
    second = create(tmp_path, {"name": "mine"})
    for step in range(5):
        second.log(step, {"search/best": step / 10})
    second.close()
    ((before, after),) = wandb.runs.values()
    assert list(before.history) == [0, 1, 2] and list(after.history) == [3, 4]


def test_another_folder_is_another_run(wandb: FakeWandB, tmp_path: Path) -> None:
    from evomerge.trackers.wandb import create

    create(tmp_path / "a", {})
    create(tmp_path / "b", {})
    assert len(wandb.runs) == 2


def test_settings_and_name_reach_wandb(wandb: FakeWandB, tmp_path: Path) -> None:
    trackers.create("wandb", tmp_path, {"name": "mine", "seed": 1}, {"project": "p", "mode": "offline"}).close()
    (given,) = wandb.settings
    assert (given["project"], given["mode"], given["name"], given["resume"]) == ("p", "offline", "mine", "allow")
    assert given["config"] == {"name": "mine", "seed": 1} and given["dir"] == str(tmp_path)


def test_the_result_is_the_summary(wandb: FakeWandB, tmp_path: Path) -> None:
    from evomerge.trackers.wandb import create

    document = {"verdict": "tie", "difference": 0.1, "best_baseline": "base", "fingerprint": "ab", "rows": []}
    backend = create(tmp_path, {})
    backend.log_result(document, [["model", "holdout"], ["base", 0.5], ["math", float("nan")], ["winner", 0.6]])
    backend.log_files([tmp_path / "recipe.yaml"])
    backend.close()
    ((run,),) = wandb.runs.values()
    assert run.summary["verdict"] == "tie" and run.summary["holdout/winner"] == 0.6
    assert "holdout/math" not in run.summary
    assert run.summary["holdout"].columns == ["model", "holdout"] and len(run.summary["holdout"].data) == 3
    assert run.summary["holdout"].data[1] == ["math", None]
    assert run.artifacts == [[str(tmp_path / "recipe.yaml")]]
    assert run.exit_code == 0


def test_a_search_that_did_not_finish_is_a_failed_run(wandb: FakeWandB, tmp_path: Path) -> None:
    tracker = trackers.create("wandb", tmp_path, {}, {})
    tracker.close()
    ((run,),) = wandb.runs.values()
    assert run.exit_code == 1
