"""Trackers with their real libraries, where these are installed; nothing leaves the machine."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SEARCH = """
import logging, sys
from pathlib import Path
from types import SimpleNamespace
from evomerge import trackers
from tests.trackers.test_trackers import DOCUMENT, board

name, settings = sys.argv[1], dict(text.split("=", 1) for text in sys.argv[2:])
files = Path("recipe.yaml"), Path("report.html")
for file in files:
    file.write_text("text")
logging.basicConfig(level=logging.WARNING)
for generations in (3, 5, 5):
    tracker = trackers.create(name, Path("run"), {"name": "mine", "budget": {"items": 5, "hours": None}}, settings)
    tracker.count_items(lambda: 12.0)
    for number in range(generations):
        tracker.generation(number, board(0.5 + number / 8), [0.5])
    if generations == 5:
        tracker.finish(DOCUMENT)
        tracker.log_files(files)
    tracker.close()
"""
READ_MLFLOW = """
from mlflow import MlflowClient
client = MlflowClient("sqlite:///mlflow.db")
(run,) = client.search_runs([client.get_experiment_by_name("evomerge").experiment_id])
history = client.get_metric_history(run.info.run_id, "search/best")
print([(each.step, each.value) for each in history])
data = run.data
print(len(client.get_metric_history(run.info.run_id, "holdout/low/base")))
print(run.info.status, data.params["budget.items"], data.metrics["holdout/low/base"], data.tags["evomerge.verdict"])
print(sorted(file.path for file in client.list_artifacts(run.info.run_id)))
"""
READ_TRACKIO = """
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs("evomerge")
logs = SQLiteStorage.get_logs("evomerge", name)
print([(each["step"], each["search/best"]) for each in logs if "search/best" in each])
print(sum("verdict" in each for each in logs))
print(logs[-1]["holdout/low/base"], logs[-1]["verdict"])
"""
STEPS = str([(number, 0.5 + number / 8) for number in range(5)])


def run(folder: Path, program: str, *arguments: str) -> list[str]:
    """The printed lines of a program; it must succeed and write no warning."""
    away = {"TRACKIO_DIR": str(folder / "trackio"), "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
    away |= {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | away, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the extra `{package}` is not installed")


def test_mlflow_has_each_step_once_and_the_result(tmp_path: Path) -> None:
    needs("mlflow")
    needs("sqlalchemy")  # mlflow-skinny lacks it
    assert run(tmp_path, SEARCH, "mlflow", "uri=sqlite:///mlflow.db") == []
    steps, results, numbers, files = run(tmp_path, READ_MLFLOW)
    assert steps == STEPS and results == "1"
    assert numbers == "FINISHED 5 0.1 better"
    assert files == "['recipe.yaml', 'report.html', 'result.json']"


def test_trackio_has_each_step_once_and_the_result(tmp_path: Path) -> None:
    needs("trackio")
    assert run(tmp_path, SEARCH, "trackio") == []
    steps, results, numbers = run(tmp_path, READ_TRACKIO)
    assert steps == STEPS and results == "1"
    assert numbers == "0.1 better"


def test_wandb_works_offline(tmp_path: Path) -> None:
    needs("wandb")
    assert run(tmp_path, SEARCH, "wandb") == []
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
