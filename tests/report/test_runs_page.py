"""The page of several runs: its tables, and charts of the kind that a run's report has."""

import json
from pathlib import Path

import pytest

from evomerge.cli import main
from evomerge.report import compare_runs, write_runs_page

from .conftest import HOSTILE, write_run
from .test_html import Page, charts, layers_of


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    found = [write_run(tmp_path / "runs" / name) for name in ("a", "b", "c")]
    (found[2] / "result.json").unlink()
    return found


def test_finished_runs_have_a_line_and_an_interval_each(folders: list[Path], tmp_path: Path) -> None:
    path = write_runs_page(compare_runs(folders), tmp_path / "page.html")
    page = Page(path.read_text(encoding="utf-8"))
    specs = charts(page)
    assert list(specs) == ["runs-search", "runs-holdout"]
    lines = [rows for mark, rows in layers_of(specs["runs-search"]) if mark["type"] == "line"]
    assert [{row["run"] for row in rows} for rows in lines] == [{"a"}, {"b"}]
    assert [row["items"] for row in lines[0]] == [0, 4, 6, 10, 12]
    (ends,) = (rows for mark, rows in layers_of(specs["runs-holdout"]) if mark.get("style") == "ink")
    assert [(row["low"], row["ahead"], row["high"]) for row in ends] == [(0.1, 0.2, 0.3)] * 2
    assert "not finished: begun" in "".join(page.text) and "3 runs" in "".join(page.text)


def test_a_run_without_a_difference_is_in_the_table_alone(folders: list[Path], tmp_path: Path) -> None:
    path = folders[0] / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "difference": float("nan")}))
    page = Page(write_runs_page(compare_runs(folders), tmp_path / "page.html").read_text(encoding="utf-8"))
    (ends,) = (rows for mark, rows in layers_of(charts(page)["runs-holdout"]) if mark.get("style") == "ink")
    assert [row["run"] for row in ends] == ["b"]


def test_names_of_runs_are_escaped(tmp_path: Path) -> None:
    for name in ("a", HOSTILE.replace("/", "_")):
        write_run(tmp_path / name)
    source = write_runs_page(compare_runs([tmp_path]), tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<script>alert("x")' not in source
    Page(source)


def test_the_command_writes_it(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, folders), "--page", str(tmp_path / "page.html")])
    assert stopped.value.code == 0 and str(tmp_path / "page.html") in capsys.readouterr().out.replace("\n", "")
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folders[0]), "--page", "x.html"])
    assert stopped.value.code == 2 and "give the folders of several runs" in capsys.readouterr().err
