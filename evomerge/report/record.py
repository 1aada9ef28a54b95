"""Reads the files of a finished run into the values that tables and figures show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.ledger import read_trials
from evomerge.paths import CONFIG, LEDGER, RECIPE, RESULT
from evomerge.recipes import Recipe, load_recipe, original_recipe
from evomerge.report.search_scores import CandidateScore, SearchScores
from evomerge.run_files import read_config_file, read_result, refuse_misfits
from evomerge.searching import Fitness

FILES = (CONFIG, LEDGER, RECIPE, RESULT)
REQUIRED_KEYS = ("comparisons", "gap", "floors", "simpler", "sensitivity", "front")  # of result.json
BEST_BASELINE = "best-baseline"


@dataclass(frozen=True)
class ComparedModel:
    """A model in the comparison on holdout; `scores` holds its mean, then its tasks, NaN where it failed.

    `role` is winner, best-baseline or expert, which is also the CSS class of its bars.
    """

    label: str
    role: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """A finished run: the contents of its files, and the scores of its search."""

    name: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    recipe: Recipe
    recipe_text: str
    candidates: tuple[CandidateScore, ...]
    baseline_fitness: Mapping[str, Fitness] = field(default_factory=dict)  # label → fitness on the search slice
    descent: tuple[float, ...] = ()  # the mean loss of the items of each step

    @property
    def winner(self) -> Mapping[str, Any]:
        """The winner's row of the result table."""
        return dict(self.result["rows"][-1])

    @property
    def baselines(self) -> list[Mapping[str, Any]]:
        """The baselines' rows of the result table, the base first."""
        return list(self.result["rows"][:-1])

    @property
    def experts(self) -> list[str]:
        """The labels of the experts that the search merged: those that a screening has chosen, or all."""
        return list(self.result.get("screen", {}).get("kept", self.config["experts"]))

    def failures(self) -> dict[int, str]:
        """Number of a candidate → the reason why it failed."""
        return {candidate.number: candidate.error for candidate in self.candidates if candidate.error is not None}

    def best_so_far(self) -> list[float]:
        """The best score on the search slice after 0, 1, 2 … candidates; the baselines are scored before the first.

        Candidates that violate a floor do not count; the score is NaN until one candidate keeps all floors.
        """
        feasible = {label for label, fitness in self.baseline_fitness.items() if not fitness.violation}
        scores = [row["scores"]["search"] for row in self.baselines if row["label"] in feasible]
        best = [max((score for score in scores if not is_missing(score)), default=math.nan)]
        for candidate in self.candidates:
            counts = candidate.complete and not is_missing(candidate.score) and not candidate.fitness.violation
            improves = counts and (is_missing(best[-1]) or candidate.score > best[-1])
            best.append(candidate.score if improves else best[-1])
        return best

    def compared_models(self) -> list[ComparedModel]:
        """The winner, the best baseline and every expert on holdout."""
        best = self.result["best_baseline"]
        roles = {label: "expert" for label in self.config["experts"]} | {best: BEST_BASELINE}
        rows = sorted((row for row in self.baselines if row["label"] in roles), key=lambda row: row["label"] != best)
        winner = _compared_model("winner", "winner", self.winner)
        return [winner, *(_compared_model(row["label"], roles[row["label"]], row) for row in rows)]


def is_missing(score: float | None) -> bool:
    """Whether a model has no score, because it failed or was not scored."""
    return score is None or math.isnan(score)


def read_record(folder: Path) -> Record:
    """Read a run's folder; RunError if the run is not finished or its files do not belong together."""
    for name in FILES:
        if not (folder / name).is_file():
            raise RunError(f"{folder}: no {name}; give the folder of a finished run")
    header, lines = read_trials(folder / LEDGER)
    config, result = read_config_file(folder), read_result(folder)
    with refuse_misfits(folder):
        scores = SearchScores(header, lines, {row["label"]: row["key"] for row in result["rows"][:-1]})
        candidates, baselines = scores.candidates(result.get("asked", ())), scores.baselines()
        name = str(config.get("name") or folder.resolve().name)
        _require_keys(result)
    recipe = original_recipe(load_recipe(folder / RECIPE))
    losses = tuple(math.fsum(line["losses"]) / len(line["losses"]) for line in lines if line.get("derivatives"))
    return Record(name, config, result, recipe, (folder / RECIPE).read_text(), candidates, baselines, losses)


def _compared_model(label: str, role: str, row: Mapping[str, Any]) -> ComparedModel:
    return ComparedModel(label, role, {"all tasks": row["scores"]["holdout"], **row["tasks"]})


def _require_keys(result: Mapping[str, Any]) -> None:
    """KeyError if an earlier version wrote the result; repeating the command updates it without scoring anything."""
    for name in REQUIRED_KEYS:
        result[name]
