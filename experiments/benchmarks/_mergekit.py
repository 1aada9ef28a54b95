"""mergekit in an environment of its own: its merge of loaded tensors, and its whole command beside evomerge's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from _cases import Case
from _rows import ROOT, Contestant, Skip

from evomerge.recipes import dump_recipe

WORKER = Path(__file__).with_name("_mergekit_worker.py")
MERGEKIT_VENV = ROOT / ".venv-mergekit"  # the one of `make parity`
TORCH, MERGEKIT = "torch==2.13.0", "mergekit==0.1.5"
FLAGS = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet")


def find_mergekit(given: str | None) -> Path:
    """mergekit-yaml of the given environment, or of .venv-mergekit, which is made where it is missing."""
    if given is not None:
        path = Path(given) / "bin" / "mergekit-yaml" if Path(given).is_dir() else Path(given)
        if not path.is_file():
            raise Skip(f"no mergekit-yaml at {path}")
        return path.resolve()
    script = MERGEKIT_VENV / "bin" / "mergekit-yaml"
    if not script.is_file():
        _install_mergekit(MERGEKIT_VENV)
    return script.resolve()


def _install_mergekit(venv: Path) -> None:
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    steps = (
        [sys.executable, "-m", "venv", str(venv)],
        [*pip, TORCH],  # first and exactly, so that no other build of it is resolved
        [*pip, "-c", str(ROOT / "constraints.txt"), MERGEKIT],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
            raise Skip(f"mergekit could not be installed: {reason[-1]}")


class Mergekit:
    """A live process of mergekit's interpreter that merges loaded tensors and measures itself."""

    def __init__(self, executable: Path, threads: int) -> None:
        self.executable, self.environment = executable, _environment(threads)
        command = [str(executable.with_name("python")), str(WORKER), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
        )
        self.version = str(self._answer()["version"])

    def contestant(self, case: Case, dtype: str) -> Contestant:
        """mergekit's merge of every tensor, computed in `dtype`; its result is not copied into a model."""
        dense = [ref for ref in case.experts if ref.adapter is None]
        paths = [case.members.base, *dense]
        request = {
            "method": case.method,
            "dtype": dtype,
            "files": [str(Path(ref.path) / "model.safetensors") for ref in paths],
            "adapters": [ref.adapter for ref in case.experts if ref.adapter],
        }
        return lambda turn: self._ask(request | {"parameters": case.mergekit_parameters(turn)})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> float:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Skip("the mergekit process has died") from None
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Skip("the mergekit process has died")
        answer = dict(json.loads(line))
        if "error" in answer:
            raise Skip(f"mergekit: {answer['error']}")
        return answer


def mergekit_command(case: Case, mergekit: Mergekit, folder: Path) -> Contestant:
    """The whole mergekit-yaml command: start, loading, merging (adapters first, into checkpoints), writing."""
    cache = ("--lora-merge-cache", str(folder / "merged-adapters"))
    threads = ("--num-threads", mergekit.environment["OMP_NUM_THREADS"])
    arguments = (*FLAGS, *cache, *threads)
    return _command(case, folder, [str(mergekit.executable)], arguments, mergekit.environment)


def our_command(case: Case, folder: Path, threads: int) -> Contestant:
    """The whole `evomerge merge` command."""
    environment = _environment(threads) | {"PYTHONPATH": str(ROOT)}
    return _command(case, folder, [sys.executable, "-m", "evomerge", "merge"], (), environment)


def _command(
    case: Case, folder: Path, program: list[str], arguments: tuple[str, ...], environment: dict[str, str]
) -> Contestant:
    def run(turn: int) -> float:
        folder.mkdir()
        recipe, out = folder / "recipe.yaml", folder / "out"
        recipe.write_text(dump_recipe(case.recipe(turn)))
        start = perf_counter()
        command = [*program, str(recipe), str(out), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        seconds = perf_counter() - start
        shutil.rmtree(folder)
        if done.returncode:
            raise Skip(f"exit status {done.returncode}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
        return seconds

    return run


def _environment(threads: int) -> dict[str, str]:
    """An environment without network, and without this interpreter's import path."""
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | quiet
