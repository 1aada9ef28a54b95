"""Recipes of what may be built beside the winner: the simpler one, and every member of the front."""

import re
from collections.abc import Callable
from pathlib import Path

from evomerge import recipe_yaml
from evomerge.atomic import write_atomically
from evomerge.environment import versions
from evomerge.recipe import Recipe
from evomerge.result import Result, Row

SIMPLER, FRONT = "recipe.simple.yaml", "front"


def write_offers(folder: Path, result: Result, frozen: Callable[[Recipe], Recipe]) -> None:
    """Write each into the run's folder with its scores, as `frozen` keeps recipes; those of an earlier end go."""
    found = {_file_of(row): (candidate, row) for candidate, row in result.offered()}
    for path in (folder / SIMPLER, *folder.glob(f"{FRONT}/*.yaml")):
        if str(path.relative_to(folder)) not in found:
            path.unlink(missing_ok=True)
    for name, (candidate, row) in found.items():
        (folder / name).parent.mkdir(exist_ok=True)
        scores = {at: score for at, score in row.as_dict()["scores"].items() if score is not None}
        notes = {"label": row.label, "scores": scores, "versions": versions()}
        write_atomically(folder / name, recipe_yaml.dump(frozen(candidate.recipe.with_notes(notes))))


def _file_of(row: Row) -> str:
    """A label as a file's name; a candidate's `3/4` is `front/3-4.yaml`."""
    plain = re.sub(r"[^\w.-]+", "-", row.label)
    return SIMPLER if row.role == "simpler" else f"{FRONT}/{plain}.yaml"
