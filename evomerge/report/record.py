"""What a finished run's files say, as the plain numbers that tables and figures show. Knows no drawing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evomerge.errors import RunError
from evomerge.ledger import plan_of, read_trials
from evomerge.paths import CONFIG, LEDGER, RECIPE, RESULT
from evomerge.recipes import Recipe, load_recipe, original_recipe
from evomerge.scoring import Chunk, Plan
from evomerge.searching import FAILED, Fitness, ItemOrder, Objective

FILES = (CONFIG, LEDGER, RECIPE, RESULT)


@dataclass(frozen=True)
class Point:
    """One candidate of the search, numbered from 1 as first asked; `score` on the search slice, NaN if it failed.

    `whole` is False where it was dropped before the whole slice was scored: its score is then estimated.
    """

    number: int
    key: str
    score: float
    whole: bool = True
    error: str | None = None
    fitness: Fitness = FAILED


@dataclass(frozen=True)
class ComparedModel:
    """A model of the comparison on holdout: its mean first, then its tasks; NaN where it failed."""

    label: str
    role: str  # winner, rival (the best baseline) or expert
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """A finished run."""

    name: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    recipe: Recipe
    recipe_text: str
    points: tuple[Point, ...]
    standing: Mapping[str, Fitness] = field(default_factory=dict)  # the baselines on the search slice

    @property
    def winner(self) -> Mapping[str, Any]:
        """The winner's row."""
        return dict(self.result["rows"][-1])

    @property
    def baselines(self) -> list[Mapping[str, Any]]:
        """The rows of the baselines, the base first."""
        return list(self.result["rows"][:-1])

    def failures(self) -> dict[int, str]:
        """Number of a candidate → why it failed."""
        return {point.number: point.error for point in self.points if point.error is not None}

    def best_so_far(self) -> list[float]:
        """The best score on the search slice after no, one, two … candidates; baselines are known from the start.

        Whoever breaks a floor does not lead; NaN as long as nobody keeps them all.
        """
        kept = {label for label, fitness in self.standing.items() if not fitness.violation}
        known = [row["scores"]["search"] for row in self.baselines if row["label"] in kept]
        best = [max((score for score in known if not missing(score)), default=math.nan)]
        for point in self.points:
            counts = point.whole and not missing(point.score) and not point.fitness.violation
            leads = counts and (missing(best[-1]) or point.score > best[-1])
            best.append(point.score if leads else best[-1])
        return best

    def contenders(self) -> list[ComparedModel]:
        """Winner, best baseline and every expert on holdout."""
        rival = self.result["best_baseline"]
        roles = {label: "expert" for label in self.config["experts"]} | {rival: "rival"}
        rows = sorted((row for row in self.baselines if row["label"] in roles), key=lambda row: row["label"] != rival)
        found = [_contender("winner", "winner", self.winner)]
        return found + [_contender(row["label"], roles[row["label"]], row) for row in rows]


def missing(score: float | None) -> bool:
    """Whether a model has no score there: it failed, or was not scored."""
    return score is None or math.isnan(score)


def read(folder: Path) -> Record:
    """The record of a run folder; RunError where it is not one of a finished run."""
    for name in FILES:
        if not (folder / name).is_file():
            raise RunError(f"{folder}: no {name}; give the folder of a finished run")
    header, lines = read_trials(folder / LEDGER)
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        result = json.loads((folder / "result.json").read_text())
        ledger = _Ledger(header, lines, {row["label"]: row["key"] for row in result["rows"][:-1]})
        points, standing = ledger.points(result.get("asked", ())), ledger.standing()
        name = str(config.get("name") or folder.resolve().name)
        _refuse_older(result)
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(f"{folder}: its files do not fit together ({error!r}); repeat the run's command") from None
    recipe = original_recipe(load_recipe(folder / "recipe.yaml"))
    return Record(name, config, result, recipe, (folder / "recipe.yaml").read_text(), points, standing)


def _contender(label: str, role: str, row: Mapping[str, Any]) -> ComparedModel:
    return ComparedModel(label, role, {"all tasks": row["scores"]["holdout"], **row["tasks"]})


def _drawn(plan: Plan) -> tuple[Chunk, ...]:
    """The search slice once, as it was drawn."""
    return tuple(chunk for chunk in plan.chunks["search"] if chunk.id.count("/") == 1)


def _refuse_older(result: Mapping[str, Any]) -> None:
    """KeyError where an earlier version wrote the result: repeating the command brings it up to date for nothing."""
    for name in ("comparisons", "gap", "floors", "simpler", "sensitivity", "front"):
        result[name]


class _Ledger:
    """The trials on the search slice, as the objective sees them."""

    def __init__(
        self, header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], baselines: Mapping[str, str]
    ) -> None:
        self._plan, self._baselines = plan_of(header, lines), baselines
        levels: Mapping[str, str] = next((line["levels"] for line in lines if "levels" in line), {})
        self._order = ItemOrder(_drawn(self._plan), 1, levels)
        config = header["config"]
        settings = config.get("objective") or {}
        self._objective = Objective(self._plan.weights, tuple(config["experts"]), tuple(baselines), **settings)
        self._trials: dict[str, dict[str, list[float]]] = {}
        self._errors: dict[str, str] = {}
        self._stopped = {key for line in lines for key in line.get("race", {}).get("stopped", {})}
        for line in lines:
            if str(line.get("chunk", "")).startswith("search/"):  # what only select or holdout saw is no point of it
                self._take(line)
        means = {label: self._plan.by_task(self._items(key)) for label, key in baselines.items()}
        self._references = {label: found for label, found in means.items() if found}

    def _take(self, line: Mapping[str, Any]) -> None:
        scores = self._trials.setdefault(line["key"], {})
        if "error" in line:
            self._errors[line["key"]] = line["error"]
        else:
            scores[line["chunk"]] = line["scores"]

    def standing(self) -> dict[str, Fitness]:
        """What every baseline that could be scored is worth."""
        return {label: self._objective.fitness(means, self._references) for label, means in self._references.items()}

    def points(self, asked: Sequence[str]) -> tuple[Point, ...]:
        """Every candidate but the baselines, as first asked: several workers write in another order each time."""
        place = {key: number for number, key in enumerate(asked)}
        keys = [key for key in self._trials if key not in self._baselines.values()]
        keys.sort(key=lambda key: place.get(key, len(place)))
        return tuple(self._point(number, key) for number, key in enumerate(keys, 1))

    def _point(self, number: int, key: str) -> Point:
        error, items = self._errors.get(key), self._items(key)
        if error is not None and items and key in self._stopped:
            error = None  # what a worker tried ahead is nothing that the search has seen
        if error is not None or not items:
            return Point(number, key, math.nan, error=error)
        fitness = self._objective.fitness(self._plan.by_task(items), self._references)
        whole = len(items) == len(set(self._plan.items("search")))
        return Point(number, key, fitness.score if whole else self._estimate(items), whole, fitness=fitness)

    def _estimate(self, items: Mapping[str, float]) -> float:
        """The score by the items that were seen, each of which stands for those that were passed over for it."""
        scaled = self._objective.items(items, self._references)
        if not scaled:
            return math.nan  # it saw nothing of the tasks that count
        strata = self._order.strata(list(scaled), self._objective.weights)
        return float(strata.means(np.array([list(scaled.values())]))[0])

    def _items(self, key: str) -> dict[str, float]:
        scores = self._trials.get(key, {})
        chunks = [chunk for chunk in self._plan.chunks["search"] if chunk.id in scores]
        return {item: s for chunk in chunks for item, s in zip(chunk.items, scores[chunk.id], strict=True)}
