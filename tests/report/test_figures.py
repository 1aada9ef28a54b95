"""Figures as files, from the specifications of the page."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from evomerge.report import save_figures
from evomerge.report.vega import library_script


def test_figures_are_written_and_repeatable(run_folder: Path, tmp_path: Path) -> None:
    first = save_figures(run_folder, tmp_path / "a")
    names = {path.name for path in first}
    assert {"search.svg", "search.pdf", "task-0.svg", "gene-0-0.pdf"} <= names and len(names) == 2 * 7
    again = save_figures(run_folder, tmp_path / "b")
    pairs = zip(first, again, strict=True)
    assert all(one.read_bytes() == other.read_bytes() for one, other in pairs if one.suffix == ".svg")
    for path in first:
        assert path.suffix == ".pdf" or ElementTree.parse(path).getroot().tag.endswith("svg")
        assert path.suffix == ".svg" or path.read_bytes().startswith(b"%PDF")


def test_the_script_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path))
    library_script.cache_clear()
    script = library_script()
    (kept,) = tmp_path.glob("vega-*.js")
    assert kept.read_text(encoding="utf-8") == script and len(script) > 500_000
    kept.write_text("kept", encoding="utf-8")
    library_script.cache_clear()
    assert library_script() == "kept"
    library_script.cache_clear()
    monkeypatch.undo()


def test_no_script_can_end_its_element() -> None:
    assert "</script" not in library_script().lower() and "<!--" not in library_script()
    assert "\r" not in library_script(), "a browser would change it, and its hash"
