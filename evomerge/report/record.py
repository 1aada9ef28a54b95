"""What a finished run's files say, as the plain numbers that tables and figures show. Knows no drawing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evomerge import recipe_yaml
from evomerge.errors import RunError
from evomerge.ledger import read_trials
from evomerge.recipe import Recipe
from evomerge.scorers import Chunk, Plan

FILES = ("config.yaml", "trials.jsonl", "recipe.yaml", "result.json")


@dataclass(frozen=True)
class Point:
    """One candidate of the search, numbered from 1 as first asked; `score` on the search slice, NaN if it failed.

    `whole` is False where it was dropped before the whole slice was scored: its score is then of the items it saw.
    """

    number: int
    key: str
    score: float
    whole: bool = True
    error: str | None = None


@dataclass(frozen=True)
class Contender:
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
        """The best score on the search slice after no, one, two … candidates; baselines are known from the start."""
        known = [row["scores"]["search"] for row in self.baselines]
        best = [max((score for score in known if not missing(score)), default=math.nan)]
        for point in self.points:
            counts = point.whole and not missing(point.score)
            best.append(max(point.score, best[-1]) if counts and not missing(best[-1]) else best[-1])
        return best

    def contenders(self) -> list[Contender]:
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
    header, lines = read_trials(folder / "trials.jsonl")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        result = json.loads((folder / "result.json").read_text())
        points = _points(_plan(header), lines, _baseline_keys(result, lines))
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunError(f"{folder}: its files do not fit together ({error!r}); repeat the run's command") from None
    recipe = recipe_yaml.original(recipe_yaml.load(folder / "recipe.yaml"))
    name = str(config.get("name") or folder.resolve().name)
    return Record(name, config, result, recipe, (folder / "recipe.yaml").read_text(), points)


def _contender(label: str, role: str, row: Mapping[str, Any]) -> Contender:
    return Contender(label, role, {"all tasks": row["scores"]["holdout"], **row["tasks"]})


def _plan(header: Mapping[str, Any]) -> Plan:
    """The chunks and task weights that the ledger's scores belong to."""
    chunks: dict[str, tuple[Chunk, ...]] = {}
    for chunk, items in header["chunks"].items():
        name = chunk.partition("/")[0]
        chunks[name] = (*chunks.get(name, ()), Chunk(chunk, name, tuple(items)))
    tasks = [{"name": task} if isinstance(task, str) else task for task in header["config"]["scorer"]["tasks"]]
    return Plan(chunks, {task["name"]: float(task.get("weight", 1.0)) for task in tasks})


def _baseline_keys(result: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> set[str]:
    """The ledger's keys of the baselines: they are looked at on holdout together with the winner, which comes first."""
    winner = result["winner"]["key"]
    looks = [line["keys"] for line in lines if line.get("look") == "holdout" and line["keys"][0] == winner]
    keys = set(looks[-1]) if looks else set()
    return keys - {winner} if result["rows"][-1]["label"] == "winner" else keys


def _points(plan: Plan, lines: Sequence[Mapping[str, Any]], baselines: set[str]) -> tuple[Point, ...]:
    trials: dict[str, dict[str, list[float]]] = {}
    errors: dict[str, str] = {}
    for line in lines:
        key = line.get("key")
        if key is None or key in baselines:
            continue
        scores = trials.setdefault(key, {})
        if "error" in line:
            if line["chunk"].startswith("search/"):
                errors[key] = line["error"]
        else:
            scores[line["chunk"]] = line["scores"]
    return tuple(
        _point(plan, number, key, scores, errors.get(key)) for number, (key, scores) in enumerate(trials.items(), 1)
    )


def _point(plan: Plan, number: int, key: str, scores: Mapping[str, list[float]], error: str | None) -> Point:
    chunks = [chunk for chunk in plan.chunks["search"] if chunk.id in scores]
    items = {item: s for chunk in chunks for item, s in zip(chunk.items, scores[chunk.id], strict=True)}
    if error is not None or not items:
        return Point(number, key, math.nan, error=error)
    return Point(number, key, plan.score(items), whole=len(chunks) == len(plan.chunks["search"]))
