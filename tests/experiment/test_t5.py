"""An encoder-decoder family from its checkpoints to a merged one: components, search, scores, replay."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForSeq2SeqLM

from evomerge.experiment.experiment import from_config
from evomerge.merging.materializer import Materializer
from tests.conftest import Command
from tests.experiment.t5_family import SKILLS, write_family

COMPONENTS = ["encoder", "decoder", "cross_attention"]
PARTS = {"cross_attention": "EncDecAttention", "encoder": "encoder.block", "decoder": "decoder.block"}


def spec(folder: Path, skill: str) -> dict[str, Any]:
    accuracy = {"aggregation": "mean", "higher_is_better": True}
    return {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{skill}.jsonl")}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", **accuracy}],
    }


def generating(folder: Path, skill: str) -> dict[str, Any]:
    kept = {key: value for key, value in spec(folder, skill).items() if key != "doc_to_choice"}
    return kept | {
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": [" "], "max_gen_toks": 2},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


def configuration(folder: Path, **changes: Any) -> dict[str, Any]:
    tasks = [{"name": skill, "spec": spec(folder, skill)} for skill in SKILLS]
    tasks.append({"name": "said", "spec": generating(folder, "last"), "search": 10, "select": 10, "holdout": 10})
    return {
        "base": str(folder / "base"),
        "experts": {skill: str(folder / skill) for skill in SKILLS},
        "model": {"dtype": "float32", "device": "cpu"},
        "space": {"schedule": "all", "components": COMPONENTS},
        "scorer": {"slices": {"search": 30, "select": 30, "holdout": 60}, "tasks": tasks},
        "optimizer": {"population": 6},
        "budget": {"evaluations": 12},
        **changes,
    }


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of hardly trained models: as good as any for arithmetic."""
    return write_family(tmp_path_factory.mktemp("untrained"), steps=3)


@pytest.mark.parametrize("component", PARTS)
def test_every_component_has_coefficients_of_its_own(untrained: Path, component: str) -> None:
    experiment = from_config(configuration(untrained))
    space, family = experiment.space, experiment.family
    base, expert = space.encode({"weight": [0.0, 0.0]}), space.encode({"weight": [1.0, 0.0]})
    moved = [axis.name == f"weight.first.{component}" for axis in space.coordinates()]
    assert sum(moved) == 1
    merged = dict(Materializer(family).tensors(space.decode(np.where(moved, expert, base))))
    for name, tensor in merged.items():
        part = next((part for part, text in PARTS.items() if text in name), "outer")
        owner = experiment.experts["first"] if part == component else experiment.base
        assert torch.allclose(tensor, weights(owner.path)[name], atol=1e-7), name


@cache
def weights(folder: str) -> dict[str, torch.Tensor]:
    return dict(AutoModelForSeq2SeqLM.from_pretrained(folder).named_parameters())


def finished(folder: Path, run: Path, command: Command) -> dict[str, Any]:
    """The result of a search over the family, run in `run`."""
    (run / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\n" + yaml.safe_dump(configuration(folder))
    (run / "conf" / "experiment" / "t5.yaml").write_text(text)
    said = command("+experiment=t5")
    assert said.code == 0, said
    return json.loads((run / "runs" / "t5" / "result.json").read_text())


def scores(run: Path, key: str) -> dict[str, float]:
    """Item → score of one candidate, from the ledger."""
    header, *lines = (json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines())
    own = [line for line in lines if line.get("key") == key]
    return {i: s for line in own for i, s in zip(header["chunks"][line["chunk"]], line["scores"], strict=True)}


@pytest.mark.slow
def test_a_search_scores_as_lm_eval_does_on_the_merged_folder(untrained: Path, tmp_path: Path, command: Any) -> None:
    result = finished(untrained, tmp_path, command)
    run = tmp_path / "runs" / "t5"
    assert command("merge", str(run / "recipe.yaml"), "merged").code == 0
    ours = scores(run, result["winner"]["key"])
    rows: dict[str, list[int]] = {}
    for item in ours:
        rows.setdefault(item.partition("/")[0], []).append(int(item.rpartition("/")[2]))
    config = yaml.safe_load((run / "config.yaml").read_text())
    found = simple_evaluate(
        HFLM(pretrained=str(tmp_path / "merged"), dtype="float32", device="cpu", backend="seq2seq", batch_size=16),
        tasks=[{"task": task["name"], **task["spec"]} for task in config["scorer"]["tasks"]],
        task_manager=TaskManager(include_defaults=False),
        samples={task: sorted(ids) for task, ids in rows.items()},
        bootstrap_iters=0,
    )
    theirs = {
        f"{task}/test/{sample['doc_id']}": sample["exact_match" if task == "said" else "acc"]
        for task, samples in found["samples"].items()
        for sample in samples
    }
    assert len(ours) == 2 * 120 + 30 and ours == theirs
    assert command("replay", "runs/t5").code == 0


@pytest.mark.slow
def test_a_merge_of_two_skills_has_both(tmp_path: Path, command: Any) -> None:
    result = finished(write_family(tmp_path / "family"), tmp_path, command)
    holdout = {row["role"] if row["role"] == "winner" else row["label"]: row["scores"] for row in result["rows"]}
    best = max(holdout[skill]["holdout"] for skill in SKILLS)
    assert holdout["winner"]["holdout"] > best + 0.1  # training rounds differently on each kind of processor
