"""The recipes that a run ends with: the winner, the simpler one, and every member of the front, each with its proof."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.atomic import write_atomically
from evomerge.environment import versions
from evomerge.errors import ConfigError
from evomerge.finalise.result import Result, Row
from evomerge.paths import RECIPE
from evomerge.recipes import Recipe, dump_recipe, load_recipe, original_recipe

SIMPLER, FRONT = "recipe.simple.yaml", "front"


@dataclass(frozen=True)
class RecipeWriter:
    """Writes recipes into a run's folder, as `frozen` has them, with hashes of the models and of the merged weights.

    `build` merges a recipe and returns its fingerprint.
    """

    folder: Path
    frozen: Callable[[Recipe], Recipe]
    models: Mapping[str, str]
    build: Callable[[Recipe], str]

    def keep(self, result: Result) -> str:
        """Write the winner and what may be built beside it, and return the winner's fingerprint; earlier offers go."""
        winner, scores = result.winner, result.rows[-1].as_dict()["scores"]
        digest = self._write(RECIPE, winner.recipe, winner.label, scores)
        found = {_file_of(row): (candidate, row) for candidate, row in result.offered()}
        for path in (self.folder / SIMPLER, *self.folder.glob(f"{FRONT}/*.yaml")):
            if str(path.relative_to(self.folder)) not in found:
                path.unlink(missing_ok=True)
        for name, (candidate, row) in found.items():
            self._write(name, candidate.recipe, row.label, row.as_dict()["scores"])
        return digest

    def _write(self, name: str, recipe: Recipe, label: str, scores: Mapping[str, float | None]) -> str:
        digest = self._remembered(self.folder / name, recipe) or self.build(recipe)
        known = {at: score for at, score in scores.items() if score is not None}
        notes = {"label": label, "scores": known, "fingerprint": digest, "models": dict(self.models)}
        kept = self.frozen(recipe.with_notes({**notes, "versions": versions()}))
        (self.folder / name).parent.mkdir(exist_ok=True)
        write_atomically(self.folder / name, dump_recipe(kept))
        return digest

    def _remembered(self, path: Path, recipe: Recipe) -> str | None:
        """The fingerprint that stands in a file, where that is of this recipe."""
        try:
            held = load_recipe(path)
        except ConfigError:  # not there, or somebody's own: it is written anew
            return None
        same = original_recipe(held).key() == recipe.key()
        return str(held.notes["fingerprint"]) if same and "fingerprint" in held.notes else None


def _file_of(row: Row) -> str:
    """A label as a file's name; a candidate's `3/4` is `front/3-4.yaml`."""
    plain = re.sub(r"[^\w.-]+", "-", row.label)
    return SIMPLER if row.role == "simpler" else f"{FRONT}/{plain}.yaml"
