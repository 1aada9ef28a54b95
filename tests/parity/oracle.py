"""mergekit as an oracle: a recipe goes in, a merged checkpoint folder comes out."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

WORKER = Path(__file__).with_name("mergekit_worker.py")
FLAGS = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet", "--num-threads", "1")


class OracleError(RuntimeError):
    """mergekit refused a recipe; the message is the end of its log."""


class Oracle:
    """A live mergekit process; equal recipes are merged once per session."""

    def __init__(self, executable: Path, folder: Path) -> None:
        self.executable = executable
        self.folder = folder
        self._cache: dict[str, Path] = {}
        # A tool installer may only link the script: the interpreter lies beside the real file.
        python = executable.resolve().with_name("python")
        self._process = subprocess.Popen(
            [str(python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def merge(self, recipe: Mapping[str, Any] | str, *flags: str) -> Path:
        """Merges a recipe, given as a mapping or as the text of a file; raises OracleError."""
        text = recipe if isinstance(recipe, str) else yaml.safe_dump(dict(recipe), sort_keys=False)
        key = text + "\0" + "\0".join(flags)
        if key not in self._cache:
            self._cache[key] = self._run(text, flags)
        return self._cache[key]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _run(self, text: str, flags: tuple[str, ...]) -> Path:
        folder = self.folder / f"{len(list(self.folder.iterdir())):04d}"
        folder.mkdir()
        recipe, out, log = folder / "recipe.yaml", folder / "out", folder / "log.txt"
        recipe.write_text(text, encoding="utf-8")
        cache = ("--lora-merge-cache", str(folder / "adapters"))
        arguments = [str(recipe), str(out), *FLAGS, *cache, *flags]
        if self._ask({"arguments": arguments, "log": str(log)}) != 0:
            raise OracleError(log.read_text(encoding="utf-8")[-3000:])
        return out

    def _ask(self, request: Mapping[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the mergekit process of {self.executable} died; see the messages above")
        return int(json.loads(answer))


def environment() -> dict[str, str]:
    """The environment of a child that must not reach for a network or for a second core."""
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    # A test run's own import path must not leak into another interpreter.
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | quiet


def run_command(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end with its output captured, without judging the exit status."""
    return subprocess.run(arguments, capture_output=True, text=True, env=environment(), check=False)


def evomerge_command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "evomerge", "merge", str(recipe), str(out)]
