"""A finished run as a value: its rows, its recipe, its figures."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.paths import RECIPE, refuse_unfinished
from evomerge.recipes import Recipe, load_recipe
from evomerge.report import standing_row
from evomerge.run_files import read_result, refuse_misfits

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Result:
    """What a finished run holds: `folder` is its folder, `document` the contents of its result.json."""

    folder: Path
    document: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> "Result":
        """The result of a run's folder; RunError where the run has not finished."""
        refuse_unfinished(Path(folder))
        result = cls(Path(folder), read_result(Path(folder)))
        with refuse_misfits(result.folder):
            _ = str(result), result.fingerprint, result.winner_is
        return result

    @property
    def recipe(self) -> Recipe:
        """The winner's recipe, as `merge` takes it."""
        return load_recipe(self.folder / RECIPE)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the merged weights as they were scored."""
        return str(self.document["fingerprint"])

    @property
    def verdict(self) -> str:
        """`better`, `tie` or `worse`: the winner against the best baseline on holdout."""
        return str(self.document["verdict"])

    @property
    def winner_is(self) -> list[str]:
        """The labels of the baselines that are the winner itself, as a recipe or as weights; empty for a new merge."""
        return [twin["label"] for twin in self.document.get("winner_is", ())]

    @property
    def best_baseline(self) -> str:
        """The label of the best baseline on holdout."""
        return str(self.document["best_baseline"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A flat row for each baseline, then the winner: label, role, a score for each slice, and for each task.

        Task scores are on holdout and named `holdout/TASK`, lengths of answers `holdout/TASK.tokens`; a score is None
        where the model could not be scored.
        """
        return [
            {"label": row["label"], "role": row["role"], **row["scores"]}
            | {f"holdout/{name}": value for name, value in (row["tasks"] | row.get("lengths", {})).items()}
            for row in self.document["rows"]
        ]

    def to_pandas(self) -> "pandas.DataFrame":
        """The rows as a data frame, indexed by label."""
        import pandas

        return pandas.DataFrame(self.rows).set_index("label")

    def _repr_html_(self) -> str:
        """What a notebook shows: the line of `str`, and the rows as a table."""
        return f"<p>{html.escape(str(self))}</p>{self.to_pandas().to_html(float_format='{:.3f}'.format)}"

    def save_figures(self, out: str | Path) -> list[Path]:
        """Write the charts of the report as SVG and PDF files, and return their paths."""
        from evomerge.report import save_figures

        return save_figures(self.folder, Path(out))

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    def __str__(self) -> str:
        """The winner and what it is worth, in one line."""
        winner = self.rows[-1]
        score = "failed" if winner["holdout"] is None else f"{winner['holdout']:.4f}"
        if itself := standing_row(self.document):
            return f"{self.folder}: nothing better was found: the winner is {itself}, {score} on holdout"
        verdict = f"verdict against the best baseline ({self.best_baseline}): {self.verdict}"
        return f"{self.folder}: {winner['label']} has {score} on holdout; {verdict}"
