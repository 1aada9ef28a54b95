"""The callback that keeps recipe.yaml at the best recipe found so far, so that an interrupted run leaves a merge."""

from collections.abc import Sequence
from pathlib import Path

from evomerge.atomic import write_atomically
from evomerge.merging import keep_routers
from evomerge.recipes import dump_recipe
from evomerge.searching import Evaluator, Leaderboard


class BestRecipe:
    """Writes the best recipe of the search slice to recipe.yaml after each generation; the file is always valid."""

    def __init__(self, path: Path, evaluator: Evaluator) -> None:
        self._path, self._evaluator = path, evaluator
        self._key: str | None = None

    def work(self, done: int, total: int) -> None:
        """Progress within a generation is ignored."""

    def descent(self, step: int, loss: float) -> None:
        """A descent has no candidate before its end."""

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Write the best recipe if it has changed.

        While a resumed run only reads its ledger, the file of the earlier command stays.
        """
        best = board.best()
        if best is None or (not self._evaluator.scored_items and self._path.exists()):
            return
        candidate, score = best
        if candidate.key != self._key:
            keep_routers(candidate.recipe, self._path.parent)
            notes = {"label": candidate.label, "scores": {"search": score}}
            write_atomically(self._path, dump_recipe(candidate.recipe.with_notes(notes)))
            self._key = candidate.key
