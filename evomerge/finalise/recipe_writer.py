"""Writes the recipes that a run ends with: the winner, the simplified winner and the members of the Pareto front."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.atomic import write_atomically
from evomerge.environment import versions
from evomerge.errors import ConfigError
from evomerge.finalise.findings import Findings
from evomerge.finalise.rows import Row
from evomerge.merging import keep_routers
from evomerge.paths import RECIPE
from evomerge.recipes import Recipe, dump_recipe, load_recipe, original_recipe

SIMPLE_RECIPE, FRONT_FOLDER = "recipe.simple.yaml", "front"


@dataclass(frozen=True)
class RecipeWriter:
    """Writes recipes into a run's folder, each with the hashes of its models and the fingerprint of its weights.

    `freeze` rewrites a recipe in a form that mergekit reads, where there is one. `models` maps each model to its hash.
    `fingerprint_of` merges a recipe and returns the fingerprint of the merged weights.
    """

    folder: Path
    freeze: Callable[[Recipe], Recipe]
    models: Mapping[str, str]
    fingerprint_of: Callable[[Recipe], str]

    def write(self, findings: Findings) -> str:
        """Write the winner and its alternatives, delete the alternatives of an earlier run; returns the fingerprint."""
        fingerprint = self._write_recipe(RECIPE, findings.winner.recipe, findings.winner.label, findings.rows[-1])
        alternatives = {_file_name(row): (candidate, row) for candidate, row in findings.alternatives()}
        for path in (self.folder / SIMPLE_RECIPE, *self.folder.glob(f"{FRONT_FOLDER}/*.yaml")):
            if str(path.relative_to(self.folder)) not in alternatives:
                path.unlink(missing_ok=True)
        for name, (candidate, row) in alternatives.items():
            self._write_recipe(name, candidate.recipe, row.label, row)
        return fingerprint

    def _write_recipe(self, name: str, recipe: Recipe, label: str, row: Row) -> str:
        fingerprint = self._recorded_fingerprint(self.folder / name, recipe) or self.fingerprint_of(recipe)
        scores = {name: score for name, score in row.as_dict()["scores"].items() if score is not None}
        notes = {"label": label, "scores": scores, "fingerprint": fingerprint, "models": dict(self.models)}
        frozen = self.freeze(recipe.with_notes({**notes, "versions": versions()}))
        (self.folder / name).parent.mkdir(exist_ok=True)
        keep_routers(frozen, (self.folder / name).parent)
        write_atomically(self.folder / name, dump_recipe(frozen))
        return fingerprint

    def _recorded_fingerprint(self, path: Path, recipe: Recipe) -> str | None:
        """The fingerprint noted in a recipe file, which saves a merge; None unless the file has the same recipe."""
        try:
            written = load_recipe(path)
        except ConfigError:  # the file does not exist, or another program wrote it
            return None
        same = original_recipe(written).key() == recipe.key()
        return str(written.notes["fingerprint"]) if same and "fingerprint" in written.notes else None


def _file_name(row: Row) -> str:
    """The file for an alternative: the front member with label `3/4` goes to `front/3-4.yaml`."""
    stem = re.sub(r"[^\w.-]+", "-", row.label)
    return SIMPLE_RECIPE if row.role == "simpler" else f"{FRONT_FOLDER}/{stem}.yaml"
