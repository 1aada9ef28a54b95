"""Where files are: those of a run's folder, those that come with the project, and the cache."""

import os
import re
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError
from evomerge.schema import as_yaml

CONFIG, LEDGER, RECIPE, RESULT = "config.yaml", "trials.jsonl", "recipe.yaml", "result.json"
FLIPS = "flips.json"  # the text of items that winner and best baseline answer differently
EXPERIMENT = "experiment.yaml"  # what a quick search has chosen
PACK = "submission.tar"  # what a run for a contest ends with

PACKAGE = Path(__file__).resolve().parent


def project_path(path: str) -> Path:
    """A file or folder of the project: inside the package of a wheel, beside the package in a checkout."""
    found = next((root / path for root in (PACKAGE, PACKAGE.parent) if (root / path).exists()), None)
    if found is None:
        raise ConfigError(f"{path}: not found beside the package; run from a checkout of the project")
    return found


def cache_folder() -> Path:
    """The folder in EVOMERGE_CACHE, or `evomerge` in the user's cache folder."""
    if chosen := os.environ.get("EVOMERGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evomerge"


def run_name(name: Any) -> str:
    """The name of a run as a relative path below runs/; ConfigError for null, and for a path that leads elsewhere."""
    if name is None:  # the default is the experiment's name, and there is no experiment
        raise ConfigError("name=null: choose an experiment: +experiment=quickstart, or your own, or give a name")
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or not all(re.fullmatch(r"(?!\.{1,2}$)[^/]{1,200}", part) and part.isprintable() for part in parts):
        raise ConfigError(f"name={as_yaml(name)}: give the name of a run folder, which is made below runs/")
    return "/".join(parts)


def refuse_unfinished(folder: Path) -> None:
    """RunError where a folder lacks a file that every finished run has."""
    for name in (CONFIG, RECIPE, RESULT):
        if not (folder / name).is_file():
            raise RunError(f"{folder}: no {name}; give the folder of a finished run")


def replace_path(text: str, path: str, name: str) -> str:
    """A YAML text with a name in place of a path, whose line may be broken at a space."""
    return re.sub(r"\s+".join(map(re.escape, path.split(" "))), lambda _: name, text)
