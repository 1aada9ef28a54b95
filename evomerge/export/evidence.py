"""What a run has found about a recipe: its result.json and config.yaml, where they are beside the recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.paths import CONFIG, RESULT
from evomerge.recipes import Recipe
from evomerge.run_files import read_config_file, read_result


@dataclass(frozen=True)
class Evidence:
    """The result of the run whose winner a recipe is, and the run's configuration; both empty where there is none."""

    result: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best_comparison(self) -> Mapping[str, Any] | None:
        """The comparison of the winner with the best baseline on holdout."""
        best = self.result.get("best_baseline")
        return next((one for one in self.result.get("comparisons", ()) if one["label"] == best), None)

    @property
    def winner(self) -> Mapping[str, Any]:
        """The winner's row: scores by slice and task means on holdout."""
        return next((row for row in self.result.get("rows", ()) if row.get("role") == "winner"), {})


def find_evidence(source: Path | Recipe, recipe: Recipe) -> Evidence:
    """What the files beside a recipe file say, if the recipe is the winner of that run; else nothing."""
    if not isinstance(source, Path) or not all((source.parent / name).is_file() for name in (RESULT, CONFIG)):
        return Evidence()
    try:
        result, config = read_result(source.parent), read_config_file(source.parent)
    except RunError:  # a damaged file beside a recipe does not stop its merge
        return Evidence()
    fingerprint = recipe.notes.get("fingerprint")
    return Evidence(result, config) if fingerprint and result.get("fingerprint") == fingerprint else Evidence()
