"""What a search keeps, and what a run may be called: told before a library is loaded."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError, RunError
from evomerge.experiment.resume import fixed_part, refuse_changed
from evomerge.paths import run_name
from tests.conftest import ROOT, SMALL, Command

HEAVY = ("torch", "transformers", "lm_eval", "datasets", "cma", "optuna", "ray")


def test_what_may_change_is_left_out() -> None:
    config = {"seed": 1, "budget": {}, "model": {"dtype": "float32", "batch_size": 4}, "optimizer": {"mirror": "x"}}
    assert fixed_part(config) == {"seed": 1, "model": {"dtype": "float32"}, "optimizer": {}}
    assert fixed_part({"model": None}) == {"model": None}


def test_a_run_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text('{"schema": 1, "config": {"seed": 1}}\n')
    refuse_changed({"seed": 1, "budget": {"hours": 3}}, tmp_path)
    refuse_changed({"seed": 2}, tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"holds scores of another configuration \(seed: 1 → 2\)"):
        refuse_changed({"seed": 2}, tmp_path)


@pytest.mark.parametrize("config", [{"a": {1: 2}}, {"a": [float("nan")]}, {"a": b"x"}, {"a": "\ud800"}], ids=str)
def test_a_configuration_is_plain(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^a"):
        refuse_changed(config, tmp_path)


def test_a_change_is_refused_before_libraries_are_loaded(finished: Path) -> None:
    """In a process of its own, whose modules are its own."""
    script = (
        "import sys\nfrom evomerge.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        f"finally:\n    print([name for name in {HEAVY} if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, "+experiment=quickstart", *SMALL, "seed=5"]
    done = subprocess.run(command, cwd=finished.parents[1], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "[]\n", done
    assert done.stderr.count("\n") == 1 and "seed: 1 → 5" in done.stderr


@pytest.mark.parametrize("name", ["mine", "vision/first", "a b", "é", "..."])
def test_names_of_runs(name: str) -> None:
    assert run_name(name) == name


@pytest.mark.parametrize("name", [None, 3, "", ".", "..", "../x", "/x", "a/../b", "a//b", "a/", "a\nb", "x" * 300])
def test_names_that_lead_elsewhere_are_refused(name: object) -> None:
    with pytest.raises(ConfigError, match=r"^name="):
        run_name(name)


@pytest.mark.parametrize("name", ["null", "../x", "/x", "''"])
def test_no_folder_is_made_for_such_a_name(command: Command, tmp_path: Path, name: str) -> None:
    said = command("check", "+experiment=quickstart", f"name={name}").refused(2)
    assert said.startswith("evomerge: name=")
    assert list(tmp_path.iterdir()) == [] and not (tmp_path.parent / "x").exists()


def test_settings_that_cma_got_later_do_not_separate_old_runs_from_new_ones() -> None:
    old = {"name": "cma", "sigma": 0.2}
    assert fixed_part({"optimizer": {**old, "start": "seeds", "rate": 0.03}}) == {"optimizer": old}
    assert fixed_part({"optimizer": {**old, "start": "slope"}}) != {"optimizer": old}


def test_routers_that_are_merged_are_no_change_for_older_ledgers() -> None:
    assert fixed_part({"space": {"schedule": "all", "router": "merge"}}) == {"space": {"schedule": "all"}}
    assert fixed_part({"space": {"router": "keep"}}) == {"space": {"router": "keep"}}
