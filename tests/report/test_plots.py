"""Figures as files."""

import sys
from pathlib import Path

import pytest

from evomerge.errors import ConfigError
from evomerge.report.plots import save_figures


def test_figures_are_written_and_repeatable(run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first = save_figures(run_folder, tmp_path / "a")
    assert [path.name for path in first] == ["search.png", "search.svg", "holdout.png", "holdout.svg"]
    again = save_figures(run_folder, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_without_matplotlib_the_extra_is_named(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"evomerge\[plot\]"):
        save_figures(run_folder, tmp_path)
