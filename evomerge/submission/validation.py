"""Scores of predictions on files that have targets: accuracy of choices, ROUGE of generated texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evomerge.submission.config import Predict
from evomerge.submission.csv_rows import Row
from evomerge.submission.predictions import Scored

ROUGE = ("rouge1", "rougeL")


@dataclass(frozen=True)
class FileScores:
    """A file's scores by each convention, empty without targets, or the reason why a convention has no predictions."""

    file: Path
    rows: int
    seconds: float
    scores: Mapping[Predict, Mapping[str, float] | str]


def score_file(scored: Scored) -> dict[str, float]:
    """The mean scores over the rows with a target; empty if there are none."""
    found: dict[str, list[float]] = {}
    for row, prediction in zip(scored.rows, scored.predictions, strict=True):
        if row.target is None:
            continue
        values = {"accuracy": float(prediction == _index(row))} if row.choices else _rouge(row.target, prediction)
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _index(row: Row) -> str:
    """The index of the right choice: the target, as in the contest's files, or the place of the choice it names."""
    target = str(row.target).removesuffix(".0")
    if target.isdecimal() and int(target) < len(row.choices):
        return target
    return str(row.choices.index(str(row.target))) if row.target in row.choices else target


def _rouge(target: str, prediction: str) -> dict[str, float]:
    found = _scorer().score(target, prediction)
    return {name: float(found[name].fmeasure) for name in ROUGE}


@lru_cache(1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE), use_stemmer=False)
