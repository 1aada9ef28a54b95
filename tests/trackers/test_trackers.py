"""What every tracker owes the search: the same steps after a resume, and never an end to it."""

import importlib
import inspect
import logging
import math
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from evomerge import trackers
from evomerge.errors import ConfigError
from evomerge.experiment.resume import fixed_part
from evomerge.searching.leaderboard import Leaderboard
from evomerge.trackers._metrics import flat_settings, holdout_table, result_metrics

PRESETS = Path(__file__).parents[2] / "conf" / "tracker"
DOCUMENT: dict[str, Any] = {
    "verdict": "better",
    "difference": 0.2,
    "best_baseline": "base",
    "fingerprint": "ab",
    "rows": [
        {"label": "base", "role": "baseline", "scores": {"holdout": 0.5}, "tasks": {"a": 0.4, "b": 0.6}},
        {"label": "math", "role": "baseline", "scores": {"holdout": None}, "tasks": {}},
        {"label": "winner", "role": "winner", "scores": {"holdout": 0.7}, "tasks": {"a": 0.6, "b": 0.8}},
    ],
    "comparisons": [{"label": "base", "difference": 0.2, "interval": {"low": 0.1, "high": 0.3, "level": 0.95}}],
}


class Recorder:
    """A backend that remembers, or fails."""

    def __init__(self, broken: bool = False) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.tables: list[Sequence[Sequence[str | float]]] = []
        self.files: list[Path] = []
        self.closed, self.broken = 0, broken

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.broken:
            raise OSError("the network\nis gone")
        self.logged.append((step, dict(values)))

    def log_result(self, document: Mapping[str, Any], table: Sequence[Sequence[str | float]]) -> None:
        self.tables.append(table)

    def log_files(self, files: Sequence[Path]) -> None:
        self.files += files

    def close(self) -> None:
        self.closed += 1


def board(best: float = 0.75, failed: int = 0) -> Leaderboard:
    leader = None if math.isnan(best) else (None, best)
    return cast(Leaderboard, SimpleNamespace(best=lambda: leader, failed=failed, stopped_count=2))


def search_once(tracker: trackers.Tracker, generations: int = 3) -> None:
    """Generations of a search, and the end of the tracker, after which all calls are made."""
    tracker.count_items(lambda: 12.0)
    tracker.generation(0, board(0.5), [0.5, 0.25])
    for number in range(1, generations):
        tracker.work(1, 2)
        tracker.generation(number, board(0.5 + number / 8, failed=number), [0.25, math.nan, 0.5])
    tracker.close()


def test_every_preset_is_a_tracker_whose_settings_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {path.stem for path in PRESETS.glob("*.yaml")} == set(trackers.names())
    for name in trackers.names():
        preset = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
        assert preset.pop("name") == name
        if name == "none":
            assert not preset
            continue
        factory = importlib.import_module(f"evomerge.trackers.{name}").create
        defaults = {
            p.name: p.default for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY
        }
        assert preset == defaults


def test_generations_are_steps_with_the_numbers_of_the_search() -> None:
    recorder = Recorder()
    search_once(trackers.Tracker("fake", lambda: recorder), 2)
    assert recorder.logged[0] == (
        0,
        {
            "search/best": 0.5,
            "search/best_baseline": 0.5,
            "search/over_best_baseline": 0.0,
            "search/generation_best": 0.5,
            "search/generation_mean": 0.375,
            "search/evaluations": 0.0,
            "search/items": 12.0,
            "search/failed": 0.0,
            "search/stopped_early": 2.0,
        },
    )
    assert recorder.logged[1] == (
        1,
        {
            "search/best": 0.625,
            "search/best_baseline": 0.5,
            "search/over_best_baseline": 0.125,
            "search/generation_best": 0.5,
            "search/generation_mean": 0.375,
            "search/evaluations": 3.0,
            "search/items": 12.0,
            "search/failed": 1.0,
            "search/stopped_early": 2.0,
        },
    )


def test_the_steps_of_a_descent_come_before_the_generations() -> None:
    """A backend may refuse a step that is lower than an earlier one."""
    recorder = Recorder()
    tracker = trackers.Tracker("fake", lambda: recorder)
    tracker.generation(0, board(0.5), [0.5])
    tracker.descent(1, 0.7)
    tracker.descent(2, 0.6)
    tracker.generation(1, board(0.5), [0.5])
    tracker.close()
    assert [step for step, _ in recorder.logged] == [0, 1, 2, 3]
    assert recorder.logged[1:3] == [(1, {"descent/loss": 0.7}), (2, {"descent/loss": 0.6})]


def test_a_replayed_search_logs_the_same_again() -> None:
    first, second = Recorder(), Recorder()
    search_once(trackers.Tracker("fake", lambda: first), 3)
    search_once(trackers.Tracker("fake", lambda: second), 5)
    assert second.logged[:3] == first.logged


def test_a_generation_of_failures_has_no_mean() -> None:
    recorder = Recorder()
    tracker = trackers.Tracker("fake", lambda: recorder)
    tracker.generation(1, board(math.nan, failed=2), [math.nan, math.nan])
    tracker.close()
    assert recorder.logged == [(1, {"search/evaluations": 2.0, "search/failed": 2.0, "search/stopped_early": 2.0})]


def test_the_holdout_table_has_every_row() -> None:
    recorder = Recorder()
    tracker = trackers.Tracker("fake", lambda: recorder)
    tracker.finish(DOCUMENT)
    tracker.close()
    tracker.close()
    (table,) = recorder.tables
    assert table[0] == ["model", "holdout", "a", "b", "difference", "low", "high"]
    assert table[1] == ["base", 0.5, 0.4, 0.6, 0.2, 0.1, 0.3] and table[-1][:4] == ["winner", 0.7, 0.6, 0.8]
    assert all(math.isnan(float(cell)) for cell in [*table[2][1:], *table[-1][4:]])
    assert recorder.closed == 1


def test_the_numbers_of_the_table_have_names_and_no_nan() -> None:
    numbers = result_metrics(holdout_table(DOCUMENT))
    assert numbers["holdout/winner"] == 0.7 and numbers["holdout/a/base"] == 0.4 and numbers["holdout/low/base"] == 0.1
    assert not any("math" in name or math.isnan(value) for name, value in numbers.items())


def test_settings_are_flat() -> None:
    config = {"name": "x", "budget": {"items": 5, "hours": None}, "race": {}, "tasks": ["a", "b"]}
    assert dict(flat_settings(config)) == {
        "name": "x",
        "budget.items": "5",
        "budget.hours": "None",
        "race": "{}",
        "tasks": "['a', 'b']",
    }


def test_files_that_are_there_are_stored(tmp_path: Path) -> None:
    recorder = Recorder()
    tracker = trackers.Tracker("fake", lambda: recorder)
    (tmp_path / "recipe.yaml").write_text("")
    tracker.log_files([tmp_path / "recipe.yaml", tmp_path / "report.html"])
    tracker.close()
    assert recorder.files == [tmp_path / "recipe.yaml"]


@pytest.mark.parametrize("place", ["start", "log", "close"])
def test_a_tracker_that_hangs_delays_no_search(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """The first call is a start, the second a generation; the network hangs at one of them or when the run ends."""
    recorder, hang = Recorder(), threading.Event()

    def start() -> Recorder:
        if place == "start":
            hang.wait(30)
        if place != "start":
            setattr(recorder, place, lambda *_: hang.wait(30))
        return recorder

    begun = time.monotonic()
    with caplog.at_level(logging.WARNING):
        tracker = trackers.Tracker("fake", start, limit=0.2)
        tracker.generation(0, board(0.5), [0.5])
        assert time.monotonic() - begun < 0.15  # the search goes on at once
        tracker.close()
    assert time.monotonic() - begun < 10
    hang.set()
    assert caplog.messages == ["tracker fake failed and is not used from here on: no answer in 0.2 seconds"]


def test_no_call_follows_one_that_was_late(caplog: pytest.LogCaptureFixture) -> None:
    recorder, hang = Recorder(), threading.Event()

    def start() -> Recorder:
        hang.wait(30)
        return recorder

    with caplog.at_level(logging.WARNING):
        tracker = trackers.Tracker("fake", start, limit=0.1)
        tracker.generation(0, board(0.5), [0.5])
        time.sleep(0.2)
        tracker.generation(1, board(0.5), [0.5])  # finds that the start is late
        hang.set()
        tracker.close()
    assert len(caplog.messages) == 1
    assert not recorder.logged


def test_many_slow_calls_end_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Each call keeps the limit, but all of them together would delay the end of the search."""

    class Slow(Recorder):
        def log(self, step: int, values: Mapping[str, float]) -> None:
            time.sleep(0.15)

    with caplog.at_level(logging.WARNING):
        tracker = trackers.Tracker("fake", Slow, limit=0.2)
        for number in range(40):
            tracker.generation(number, board(0.5), [0.5])
        begun = time.monotonic()
        tracker.close()
    assert time.monotonic() - begun < 4
    (line,) = caplog.messages
    assert "calls are still to be made 1 seconds after the search" in line


def test_a_failing_tracker_is_one_warning_and_then_silent(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(broken=True)
    tracker = trackers.Tracker("fake", lambda: recorder)
    with caplog.at_level(logging.WARNING):
        search_once(tracker)
        tracker.finish(DOCUMENT)
        tracker.close()
    (line,) = caplog.messages
    assert line == "tracker fake failed and is not used from here on: the network is gone"
    assert not recorder.tables


def test_a_tracker_that_cannot_start_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Recorder:
        raise RuntimeError("not logged in")

    with caplog.at_level(logging.WARNING):
        search_once(trackers.Tracker("fake", refuse))
    assert len(caplog.messages) == 1 and "not logged in" in caplog.messages[0]


def test_a_tracker_gets_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Mapping[str, Any]] = []

    def create(folder: Path, config: Mapping[str, Any], *, uri: str | None = None) -> None:
        got.append({**config, "used": uri})

    plugin = SimpleNamespace(create=create, PACKAGE="json")
    monkeypatch.setattr("evomerge.trackers._registry.load_plugin", lambda *_: plugin)
    uri = "https://me:pa55@host"
    trackers.create("mlflow", tmp_path, {"tracker": {"uri": uri}}, {"uri": uri}).close()
    assert got == [{"tracker": {"uri": "https://***@host"}, "used": uri}]


def test_none_does_nothing(tmp_path: Path) -> None:
    tracker = trackers.create("none", tmp_path, {}, {})
    search_once(tracker)
    tracker.finish(DOCUMENT)
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_wrong_names_and_settings_are_config_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    with pytest.raises(ConfigError, match=r"'wanb' is not known.*wandb"):
        trackers.check("wanb", {})
    with pytest.raises(ConfigError, match=r"tracker\.projet: unknown key.*project"):
        trackers.check("wandb", {"projet": "x"})
    with pytest.raises(ConfigError, match=r"tracker\.mode=sometimes"):
        trackers.check("wandb", {"mode": "sometimes"})
    with pytest.raises(ConfigError, match=r"tracker\.folder: unknown key; there are none"):
        trackers.check("none", {"folder": "x"})


@pytest.mark.parametrize(("name", "package"), [(name, name) for name in trackers.names() if name != "none"])
def test_a_missing_package_names_its_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"tracker={name}: .*evomerge\[{name}\]"):
        trackers.check(name, {})


def test_the_tracker_may_change_when_a_search_is_resumed() -> None:
    assert fixed_part({"seed": 1, "tracker": {"name": "wandb"}}) == {"seed": 1}
