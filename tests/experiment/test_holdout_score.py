"""`score MODEL run=RUN_DIR`: a model on the holdout of a run, by its own tokenizer, beside the recorded scores."""

import json
import shutil
from pathlib import Path

import pytest

import evomerge
from evomerge.errors import ConfigError
from evomerge.experiment import read_run_score_config, score_on_run
from evomerge.recipes import load_recipe
from tests.conftest import Command


def test_the_exported_winner_has_the_claimed_score(finished: Path, tmp_path: Path, command: Command) -> None:
    evomerge.merge(finished / "recipe.yaml", tmp_path / "merged")
    said = command("score", "merged", f"run={finished}")
    assert said.code == 0, said
    result = json.loads((finished / "result.json").read_text())
    winner, own = (line.split() for line in said.out.splitlines()[-3:-1])
    assert winner[0] == "winner" and own[0] == "merged" and winner[1:] == own[1:]
    assert own[1] == f"{result['rows'][-1]['scores']['holdout']:.4f}"
    assert said.out.splitlines()[-1].endswith("+0.0000 [+0.0000, +0.0000], 95% interval")


def test_another_model_has_its_own_score_and_an_interval(finished: Path) -> None:
    """The base, by itself, has the score that the run has recorded for it as a baseline."""
    base = load_recipe(finished / "recipe.yaml").models()[0].path
    rows = {row["label"]: row for row in json.loads((finished / "result.json").read_text())["rows"]}
    found = score_on_run(base, read_run_score_config({"run": str(finished)}))
    assert found.score == rows["base"]["scores"]["holdout"]
    assert found.tasks == rows["base"]["tasks"]
    assert found.interval is not None
    low, high, level = found.interval
    assert low < found.difference < high <= 0 and level == 0.95


def test_a_tracker_of_the_run_is_not_needed(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (run / "config.yaml").read_text().replace("tracker:\n  name: none", "tracker:\n  name: gone")
    assert "gone" in text
    (run / "config.yaml").write_text(text)
    base = load_recipe(run / "recipe.yaml").models()[0].path
    assert score_on_run(base, read_run_score_config({"run": str(run)})).score > 0


def test_wrong_settings_are_refused(tmp_path: Path, command: Command) -> None:
    with pytest.raises(ConfigError, match="tasks"):
        read_run_score_config({"run": "runs/x", "tasks": "a"})
    assert "no config.yaml" in command("score", "model", f"run={tmp_path}").refused(1)
