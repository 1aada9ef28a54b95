"""Where a search may begin besides its own seeds: files and runs, their notices, their one-line errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.ledger.ledger import Ledger
from evomerge.recipes import dump_recipe
from evomerge.recipes.document import to_document
from evomerge.recipes.recipe import FilteredValue
from evomerge.space import warm_start
from tests.space.test_space import make
from tests.toys import Run, toy_optimizer, toy_space

MERGEKIT = """
merge_method: task_arithmetic
base_model: org/base
models:
  - {model: org/math, parameters: {weight: 0.9}}
  - {model: org/code, parameters: {weight: [0.1, 0.7]}}
parameters: {lambda: 0.5}
dtype: bfloat16
"""


def test_a_recipe_of_the_space_is_found_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    space, path = make(schedule={"blocks": 2}), tmp_path / "recipe.yaml"
    vector = np.random.default_rng(0).random(space.dimensions)
    path.write_text(dump_recipe(space.decode(vector)))
    found = warm_start.initial_points(space, [str(path)])
    assert found[str(path)] == pytest.approx(vector, abs=1e-5) and not caplog.messages


def test_mergekits_yaml_lies_beside_the_space_and_says_how_far(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mergekit.yml").write_text(MERGEKIT)
    (vector,) = warm_start.initial_points(make(), [str(tmp_path / "mergekit.yml")]).values()
    first, second, third = (s.settings["weight"] for s in make().decode(vector).slices[0].sources)
    assert (first, third) == (0.45, 0.0) and isinstance(second, tuple)
    assert [rule.value for rule in second if isinstance(rule, FilteredValue)] == [0.05, 0.05, 0.05, 0.2], (
        "depth 0, then the mean"
    )
    (line,) = caplog.messages
    assert "not in the space; the nearest point is 0.0" in line and "mergekit.yml" in line and "\n" not in line


def test_another_method_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ties.yaml").write_text(dump_recipe(make("ties").decode(np.full(make("ties").dimensions, 0.5))))
    warm_start.initial_points(make(), [str(tmp_path / "ties.yaml")])
    assert len(caplog.messages) == 1 and "its method, ties, is not searched" in caplog.messages[0]


def test_a_runs_best_come_in_order(tmp_path: Path) -> None:
    board = Run(tmp_path / "trials.jsonl").search(24, toy_optimizer("random"))
    found = warm_start.initial_points(toy_space(), [str(tmp_path)])
    assert list(found) == [f"{tmp_path} {rank}" for rank in range(1, warm_start.WINNERS + 1)]
    keys = [toy_space().decode(vector).key() for vector in found.values()]
    assert keys == [candidate.key for candidate, _ in board.ranked()[: warm_start.WINNERS]]


def test_a_runs_best_are_those_by_its_own_weights(tmp_path: Path) -> None:
    tasks = ["one", {"name": "two", "weight": 3}]
    first = {"chunks": {"search/0": ["one/0", "two/0"]}, "config": {"scorer": {"tasks": tasks}}}
    good, better = (toy_space().decode(np.full(2, at)) for at in (0.2, 0.4))
    ledger = Ledger(tmp_path / "trials.jsonl", first)
    ledger.append_scores(good.key(), "search/0", [1.0, 0.4], 1.0, to_document(good))
    ledger.append_scores(better.key(), "search/0", [0.2, 0.8], 1.0, to_document(better))
    ledger.close()
    found = warm_start.initial_points(toy_space(), [str(tmp_path)])
    assert [toy_space().decode(vector).key() for vector in found.values()] == [better.key(), good.key()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^init: {path}: no such file$"),
        ("merge_method: [", r"^init: {path}: not YAML"),
        (
            MERGEKIT.replace("org/code", "org/other"),
            r"^init {path}: it merges org/other, which is not among the experts",
        ),
        (MERGEKIT.replace("org/base", "org/bass"), r"^init {path}: its base is org/bass, not org/base$"),
    ],
    ids=["absent", "broken", "expert", "base"],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message.format(path=path)) as error:
        warm_start.initial_points(make(), [str(path)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lines", [[], [{"schema": 1}]], ids=["no ledger", "no chunks"])
def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, lines: list[object]) -> None:
    if lines:
        (tmp_path / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match=rf"^init {tmp_path}: not a run that has scored anything .*give its folder$"):
        warm_start.initial_points(make(), [str(tmp_path)])


def test_a_recipe_whose_weights_were_frozen_is_read_as_it_was_searched(tmp_path: Path) -> None:
    space = make("karcher")
    searched = space.decode(np.full(space.dimensions, 0.4))
    held = make().decode(np.full(make().dimensions, 0.2)).with_notes({"frozen_from": to_document(searched)})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(held))
    (vector,) = warm_start.initial_points(space, [str(tmp_path / "recipe.yaml")]).values()
    assert space.decode(vector).key() == searched.key()
