"""Reads the files of a finished run into the values that tables and figures show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import RunError
from evomerge.finalise import PairedScores, bootstrap
from evomerge.ledger import read_trials
from evomerge.paths import CONFIG, LEDGER, RECIPE, RESULT
from evomerge.recipes import Recipe, load_recipe, original_recipe, parse_recipe
from evomerge.report.search_scores import CandidateScore, SearchScores
from evomerge.run_files import read_config_file, read_item_texts, read_result, refuse_misfits
from evomerge.scoring import task_of
from evomerge.searching import Fitness

DRAWS = 4000  # of a bootstrap interval
FILES = (CONFIG, LEDGER, RECIPE, RESULT)
REQUIRED_KEYS = ("comparisons", "gap", "floors", "simpler", "sensitivity", "front")  # of result.json
BEST_BASELINE = "best-baseline"
ALL_TASKS = "all tasks"
Interval = tuple[float, float]


@dataclass(frozen=True)
class ComparedModel:
    """A model in the comparison on holdout; `scores` holds its mean, then its tasks, NaN where it failed.

    `role` is winner, best-baseline or expert. `intervals` has the 95% bootstrap interval of the scores that are means
    over items.
    """

    label: str
    role: str
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)


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
    holdout: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # key → item → score
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # key → its recipe's document
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # item → its text in lines
    weights: Mapping[str, float] = field(default_factory=dict)  # task → its weight in the score
    items: Mapping[str, int] = field(default_factory=dict)  # step → the items that models were scored on in it

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

    @property
    def best_baseline(self) -> Mapping[str, Any]:
        """The row of the best baseline on holdout."""
        return next(row for row in self.baselines if row["label"] == self.result["best_baseline"])

    def recipe_of(self, key: str) -> Recipe:
        """The recipe of a candidate, as the search proposed it."""
        return original_recipe(parse_recipe(self.recipes[key]))

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
        winner = self._compared("winner", "winner", self.winner)
        return [winner, *(self._compared(row["label"], roles[row["label"]], row) for row in rows)]

    def _compared(self, label: str, role: str, row: Mapping[str, Any]) -> ComparedModel:
        scores = {ALL_TASKS: row["scores"]["holdout"], **row["tasks"]}
        intervals = mean_intervals(self.holdout.get(row["key"], {}), self.weights)
        known = {task: found[1] for task, found in intervals.items() if _is_same(scores.get(task), found[0])}
        return ComparedModel(label, role, scores, known)


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
        holdout, weights, spent = scores.holdout(), scores.weights, scores.items_scored()
    recipe = original_recipe(load_recipe(folder / RECIPE))
    recipes = {line["key"]: line["recipe"] for line in lines if line.get("recipe")}
    losses = tuple(math.fsum(line["losses"]) / len(line["losses"]) for line in lines if line.get("derivatives"))
    text, items = (folder / RECIPE).read_text(), (holdout, recipes, read_item_texts(folder), weights, spent)
    return Record(name, config, result, recipe, text, candidates, baselines, losses, *items)


def mean_intervals(items: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, tuple[float, Interval]]:
    """Task → the mean of its items and its 95% bootstrap interval, ALL_TASKS → those of the weighted mean.

    Tasks whose items have values that are no numbers are left out.
    """
    by_task: dict[str, list[float]] = {}
    for item, value in items.items():
        if isinstance(value, int | float):
            by_task.setdefault(task_of(item), []).append(float(value))
    arrays = {task: np.array(values) for task, values in by_task.items()}
    parts = {task: PairedScores((values,), (1.0,)) for task, values in arrays.items()}
    if (total := sum(weights.values())) and weights.keys() <= arrays.keys():
        shares = tuple(weight / total for weight in weights.values())
        parts[ALL_TASKS] = PairedScores(tuple(arrays[task] for task in weights), shares)
    found = {task: bootstrap(part, draws=DRAWS) for task, part in parts.items()}
    return {task: (one.difference, (one.low, one.high)) for task, one in found.items()}


def _is_same(score: float | None, mean: float) -> bool:
    """Whether a score of the result is the mean; it is not for corpus-level metrics and normalised objectives."""
    return score is not None and math.isclose(score, mean, rel_tol=0, abs_tol=1e-6)


def _require_keys(result: Mapping[str, Any]) -> None:
    """KeyError if an earlier version wrote the result; repeating the command updates it without scoring anything."""
    for name in REQUIRED_KEYS:
        result[name]
