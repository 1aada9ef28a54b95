"""Where files are: those of a run's folder, and those that come with the project."""

from pathlib import Path

from evomerge.errors import ConfigError

CONFIG, LEDGER, RECIPE, RESULT = "config.yaml", "trials.jsonl", "recipe.yaml", "result.json"

PACKAGE = Path(__file__).resolve().parent


def project_path(path: str) -> Path:
    """A file or folder of the project: inside the package of a wheel, beside the package in a checkout."""
    found = next((root / path for root in (PACKAGE, PACKAGE.parent) if (root / path).exists()), None)
    if found is None:
        raise ConfigError(f"{path}: not found beside the package; run from a checkout of the project")
    return found
