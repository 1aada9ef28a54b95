"""`score MODEL run=RUN_DIR`: a model on the holdout of a run, by its own tokenizer, beside the recorded scores."""

import json
import random
import shutil
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, AutoTokenizer

import evomerge
from evomerge.errors import ConfigError
from evomerge.experiment import read_run_score_config, score_on_run
from evomerge.models import plain_folder
from evomerge.recipes import load_recipe
from tests.conftest import Command
from tests.experiment.test_finished_model import task
from tests.gguf_files import model, write


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


def test_a_model_is_scored_in_the_dtype_of_the_run() -> None:
    config = read_run_score_config({"run": "runs/mine"})
    assert config.as_score_config("float32").dtype == "float32"
    assert read_run_score_config({"run": "runs/mine", "dtype": "float16"}).as_score_config("float32").dtype == "float16"


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


def tiny_folder(folder: Path, seed: int) -> Path:
    """A tiny Llama with the tokenizer of a GGUF file, as a float32 checkpoint."""
    made = model(seed)
    made.save_pretrained(folder)
    file = write(made, folder.with_suffix(".gguf"), GGMLQuantizationType.F32)
    AutoTokenizer.from_pretrained(plain_folder(file)).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # of gguf's reader and of transformers' loader
def test_a_gguf_file_stands_beside_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In F32 it has the claimed score; in 4 bits it has its own, with an interval."""
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVOMERGE_DEQUANTISED_DTYPE", "float32")
    draw = random.Random(0)
    rows = [{"query": "".join(draw.choices("abcdxyz", k=6)), "choices": ["c", "x", "z"], "gold": 0} for _ in range(90)]
    rows = [row | {"gold": draw.randrange(3)} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = task("letters", dataset_kwargs={"data_files": {"test": str(tmp_path / "rows.jsonl")}})
    config = {
        "name": "tiny",
        "base": str(tiny_folder(tmp_path / "base", 0)),
        "experts": {"one": str(tiny_folder(tmp_path / "one", 1)), "two": str(tiny_folder(tmp_path / "two", 2))},
        "model": {"dtype": "float32", "device": "cpu"},
        "scorer": {"slices": {"search": 16, "select": 16, "holdout": 48}, "tasks": [entry]},
        "space": {"schedule": "all"},
        "budget": {"evaluations": 6},
        "finalise": {"simplify": 0, "cloud": 0},
    }
    run = tmp_path / "run"
    evomerge.search(config, run)
    claimed = json.loads((run / "result.json").read_text())["rows"][-1]["scores"]["holdout"]
    evomerge.merge(run / "recipe.yaml", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    config_of = read_run_score_config({"run": str(run)})
    exact = write(merged, tmp_path / "exact.gguf", GGMLQuantizationType.F32)
    found = score_on_run(str(exact), config_of)
    assert found.difference == 0 and found.interval == (0, 0, 0.95)
    assert found.score == claimed
    coarse = score_on_run(str(write(merged, tmp_path / "coarse.gguf", GGMLQuantizationType.Q4_0)), config_of)
    assert coarse.interval is not None and coarse.interval[0] <= coarse.difference <= coarse.interval[1]
    assert list(coarse.lines())[-2].startswith(str(tmp_path / "coarse.gguf"))
