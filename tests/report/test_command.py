"""`evomerge report`."""

from pathlib import Path

import pytest

from evomerge.cli import main


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_it_writes_the_page_and_names_it(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("report", str(run_folder)) == 0
    assert (run_folder / "report.html").is_file()
    assert capsys.readouterr().out.split() == [str(run_folder / "report.html")]


def test_figures_are_an_option(run_folder: Path, tmp_path: Path) -> None:
    assert exit_code("report", str(run_folder), "--figures", str(tmp_path / "figures")) == 0
    assert (tmp_path / "figures" / "search.svg").is_file()


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("report", str(tmp_path)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_several_runs_are_a_table(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("report", str(run_folder), str(run_folder)) == 0
    assert "2 runs" in capsys.readouterr().out
    assert exit_code("report", str(run_folder), str(run_folder), "--figures", "x") == 2
    assert "give the folder of one run" in capsys.readouterr().err
