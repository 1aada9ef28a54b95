"""TensorBoard: what is written with a stand-in for the writer, and what is read back where the package is installed."""

import importlib.util
import math
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from evomerge import trackers


class FakeWriter:
    made: ClassVar[list["FakeWriter"]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []
        self.texts: dict[str, str] = {}
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def add_text(self, name: str, text: str, step: int) -> None:
        self.texts[name] = text

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWriter]:
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("evomerge.trackers._registry.find_spec", lambda name: name)  # as if it were installed
    monkeypatch.setattr(FakeWriter, "made", [])
    return FakeWriter.made


TABLE = [["model", "holdout", "a"], ["base", 0.5, 0.5], ["math", math.nan, math.nan], ["winner", 0.75, 0.75]]


def test_scalars_have_the_generation_as_their_step(writers: list[FakeWriter], tmp_path: Path) -> None:
    trackers.check("tensorboard", {})
    from evomerge.trackers.tensorboard import create

    (tmp_path / "recipe.yaml").write_text("merge_method: linear\n")
    backend = create(tmp_path, {"seed": 1})
    backend.log(3, {"search/best": 0.5})
    backend.log_result({}, TABLE)
    backend.log_files([tmp_path / "recipe.yaml"])
    backend.close()
    (writer,) = writers
    assert writer.folder == str(tmp_path / "tensorboard") and writer.closed
    assert writer.scalars[0] == ("search/best", 0.5, 3)
    assert ("holdout/winner", 0.75, 0) in writer.scalars
    assert not [name for name, _, _ in writer.scalars if "math" in name]
    assert writer.texts["holdout"].splitlines()[2:4] == ["| base | 0.5000 | 0.5000 |", "| math |  |  |"]
    assert writer.texts["recipe"] == "    merge_method: linear" and '    "seed": 1' in writer.texts["config"]


def test_a_resumed_search_hides_the_steps_that_it_writes_again(writers: list[FakeWriter], tmp_path: Path) -> None:
    trackers.create("tensorboard", tmp_path, {}, {}).close()
    assert writers[0].purge_step == 0


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra `tensorboard` is not installed")
def test_a_reader_finds_every_step_once(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard’s own
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        from evomerge.trackers.tensorboard import create

        for generations in (3, 5):
            backend = create(tmp_path, {})
            for step in range(generations):
                backend.log(step, {"search/best": step / 8})
            backend.log_result({}, TABLE)
            backend.close()
        reader = EventAccumulator(str(tmp_path / "tensorboard"))
        reader.Reload()
    assert [(event.step, event.value) for event in reader.Scalars("search/best")] == [(i, i / 8) for i in range(5)]
    assert [event.value for event in reader.Scalars("holdout/winner")] == [0.75]
