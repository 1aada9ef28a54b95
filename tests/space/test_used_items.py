"""The items of the runs that a search begins from: searched and selected ones, of origins too, and what is unknown."""

from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.ledger.ledger import Ledger
from evomerge.ledger.reading import begun_header
from evomerge.recipes import dump_recipe
from evomerge.recipes.document import to_document
from evomerge.space.used_items import items_used_by
from tests.toys import toy_baselines

RECIPE = toy_baselines()["left"]


def run(folder: Path, task: str, **header: Any) -> str:
    """A run with an item of `task` in each slice, and one scored recipe."""
    chunks = {f"{name}/0": [f"{task}/{name}"] for name in ("search", "select", "holdout")}
    config = {"scorer": {"tasks": [task]}, "init": header.pop("init", [])}
    ledger = Ledger(folder / "trials.jsonl", {"config": config, "chunks": chunks, **header})
    ledger.append_scores(RECIPE.key(), "search/0", [1.0], 1.0, to_document(RECIPE))
    ledger.close()
    return str(folder)


def contents(task: str) -> dict[str, str]:
    return {f"{task}/search": f"hash of {task}"}


def test_a_run_has_used_what_it_searched_and_selected_on_and_what_it_began_with(tmp_path: Path) -> None:
    path = run(tmp_path / "a", "a", used=["b/search", "hash of b"], contents=contents("a"))
    assert items_used_by([path]) == {"a/search", "a/select", "hash of a", "b/search", "hash of b"}
    assert items_used_by([]) == set()
    assert begun_header(tmp_path / "a")["used"] == ["b/search", "hash of b"]
    assert begun_header(tmp_path) == {}


def test_a_run_of_an_older_version_is_followed_to_its_origins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = run(tmp_path / "a", "a", init=[str(tmp_path / "c"), str(tmp_path / "gone")])
    second = run(tmp_path / "b", "b", init=[first])
    run(tmp_path / "c", "c", init=[second])  # a circle ends
    assert items_used_by([second]) == {f"{task}/{name}" for task in "abc" for name in ("search", "select")}
    assert sum("recognised by id only" in line for line in caplog.messages) == 3
    assert sum("gone: cannot be read any more" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("name", ["recipe.yaml", "front/1.yaml"])
def test_a_recipe_of_a_run_leads_to_its_ledger(tmp_path: Path, name: str) -> None:
    run(tmp_path, "a", used=[], contents=contents("a"))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(dump_recipe(RECIPE.with_notes({"scores": {"search": 1.0}})))
    assert items_used_by([str(tmp_path / name)]) == {"a/search", "a/select", "hash of a"}


@pytest.mark.parametrize("foreign", [False, True])
def test_a_recipe_whose_run_is_elsewhere_is_one_notice(
    tmp_path: Path, foreign: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if foreign:
        run(tmp_path, "a")
    other = toy_baselines()["right"].with_notes({"scores": {"search": 1.0}})
    (tmp_path / "mine.yaml").write_text(dump_recipe(other))
    assert items_used_by([str(tmp_path / "mine.yaml")]) == set()
    (line,) = caplog.messages
    assert "mine.yaml: no ledger of the run that made it" in line and "\n" not in line


def test_a_recipe_of_no_run_needs_no_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.yaml").write_text(dump_recipe(RECIPE))
    assert items_used_by([str(tmp_path / "mine.yaml")]) == set() and not caplog.messages


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^init {tmp_path}: not a run that has scored anything"):
        items_used_by([str(tmp_path)])
    with pytest.raises(ConfigError, match="^init: .*no such file"):
        items_used_by([str(tmp_path / "gone.yaml")])
