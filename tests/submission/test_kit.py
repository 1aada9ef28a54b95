"""Packs in a checkout of the starter kit: its own program gives our predictions and our tensors.

The tests skip unless EVOMERGE_LMC_KIT names a checkout and EVOMERGE_LMC_PYTHON a Python with its requirements.
"""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from evomerge.export import open_recipe
from evomerge.merging import Materializer
from evomerge.submission import write_pack
from tests.submission.runs import write_inputs, write_models, write_run

KIT, PYTHON = "EVOMERGE_LMC_KIT", "EVOMERGE_LMC_PYTHON"
PREDICT: tuple[Literal["right", "kit"], ...] = ("right", "kit")
WORDS = ("yes", "no way", "it's", "perhaps not", "never, ever")
LETTERS = ("A", "B", "C", "D", "long one")
WEIGHTED = {"weight": 0.4}
# (name, kind of model, method, experts, parameters of each, parameters of the recipe)
Case = tuple[str, str, str, tuple[str, ...], dict[str, Any], dict[str, Any]]
CASES: list[Case] = [
    ("arithmetic", "plain", "task_arithmetic", ("full", "rank2", "rank3"), WEIGHTED, {}),
    ("ties", "eos", "ties", ("full", "other", "rank3"), {"weight": 0.7, "density": 0.4}, {}),
    ("dare", "plain", "dare_ties", ("full", "rank2"), {"weight": 0.6, "density": 0.5}, {}),
    ("slerp", "eos", "slerp", ("full",), {}, {"t": 0.3}),
    ("core", "plain", "core_tsv", ("rank2", "rank3"), {}, {"alpha": 0.8}),
    ("whole", "eos", "della", ("full", "other"), {"weight": 0.5, "density": 0.5, "epsilon": 0.1}, {}),
    ("bos", "bos", "linear", ("full", "rank3"), {"weight": 0.5}, {}),
    ("t5_mixed", "t5", "task_arithmetic", ("full", "rank2"), WEIGHTED, {}),
    ("t5_ties", "t5", "ties", ("full", "other"), {"weight": 0.7, "density": 0.4}, {}),
]
RUNNER = """
import runpy, sys
sys.path[0] = "llm_merging"
program, names = sys.argv[1:]
for name in names.split(","):
    files = [f"{name}_{kind}.csv" for kind in ("choices", "texts")]
    sys.argv = ["main.py", "-m", name, "--dataset_filepaths", *files, "--output_folder", f"found/{name}"]
    runpy.run_path(f"llm_merging/{program}", run_name="__main__")
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = {name: os.environ.get(name) for name in (KIT, PYTHON)}
    if missing := [name for name, value in given.items() if not value]:
        pytest.skip(f"set {' and '.join(missing)} to a checkout of the starter kit and to a Python that runs it")
    folder = tmp_path_factory.mktemp("kit") / "LLM-Merging"
    shutil.copytree(str(given[KIT]), folder, ignore=shutil.ignore_patterns(".git"))
    return folder


def _run_folder(folder: Path, case: Case, models: dict[str, str]) -> Path:
    name, _, method, experts, each, shared = case
    listed = {models[expert]: each for expert in experts}
    return write_run(folder / "runs" / name, method, models["base"], listed, parameters=shared)


@pytest.mark.slow
def test_the_kit_predicts_and_merges_what_the_pack_says(checkout: Path, tmp_path: Path) -> None:
    names: dict[str, Path] = {}
    families = {kind: write_models(tmp_path / kind, kind) for kind in {case[1] for case in CASES}}
    for case in CASES:
        run = _run_folder(tmp_path, case, families[case[1]])
        for predict in PREDICT:
            name = f"{case[0]}_{predict}"
            letters = predict == "right" or case[1] != "plain"
            files = [
                write_inputs(checkout / f"{name}_choices.csv", 6, LETTERS if letters else WORDS),
                write_inputs(checkout / f"{name}_texts.csv", 3),
            ]
            pack = tmp_path / f"{name}.tar"
            write_pack(run, pack, files, predict=predict, name=name, max_gen_len=8)
            with tarfile.open(pack) as archive:
                archive.extractall(checkout.parent, filter="data")
            names[name] = run
    _run(checkout, "main.py", *names)
    for name, run in names.items():
        for file in (f"{name}_choices.csv", f"{name}_texts.csv"):
            ours, theirs = (checkout / place / file for place in (f"{name}/predictions", f"found/{name}"))
            assert theirs.read_bytes() == ours.read_bytes(), (name, file)
        _assert_same_tensors(run, load_file(checkout / "output" / name / "safetensor.pt"))


@pytest.mark.slow
def test_two_lines_make_the_method_known_to_the_kits_own_program(checkout: Path, tmp_path: Path) -> None:
    models = write_models(tmp_path / "eos", "eos")
    run = write_run(tmp_path / "run", "task_arithmetic", models["base"], {models["full"]: WEIGHTED})
    files = [write_inputs(checkout / "own_choices.csv", 4, LETTERS), write_inputs(checkout / "own_texts.csv", 2)]
    with tarfile.open(write_pack(run, tmp_path / "own.tar", files, predict="kit", name="own").path) as archive:
        archive.extractall(checkout.parent, filter="data")
    program = Path(os.environ[KIT], "llm_merging", "main.py").read_text()
    added = program.replace('"llama_avg"', '"own": EvomergeMerge,\n        "llama_avg"')
    assert added != program
    checkout.joinpath("llm_merging", "kit_main.py").write_text(added)
    with checkout.joinpath("llm_merging", "merging", "__init__.py").open("a") as file:
        file.write("\nfrom llm_merging.merging.own import EvomergeMerge\n")
    _run(checkout, "kit_main.py", "own")
    for file in files:
        ours, theirs = (checkout / place / file.name for place in ("own/predictions", "found/own"))
        assert theirs.read_bytes() == ours.read_bytes(), file


def _run(checkout: Path, program: str, *names: str) -> None:
    environment = os.environ | {"HF_AUTH_TOKEN": "", "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    command = [str(os.environ[PYTHON]), "-c", RUNNER, program, ",".join(names)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def _assert_same_tensors(run: Path, theirs: dict[str, torch.Tensor]) -> None:
    recipe, family = open_recipe(run / "recipe.yaml")
    for name, ours in Materializer(family, compiled=False).tensors(recipe):
        assert torch.equal(theirs[name].cpu(), ours), (run.name, name)
