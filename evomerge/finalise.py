"""From the search's best to an honest winner: choose on `select`, claim on `holdout`, against every baseline."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import RunError
from evomerge.recipe import Recipe
from evomerge.scorers import SLICES, task_of
from evomerge.search import Board, Candidate, Evaluator
from evomerge.statistics import Interval, paired_bootstrap


@dataclass(frozen=True)
class Row:
    """One line of the result table; scores by slice, NaN where it failed."""

    label: str
    role: str
    scores: Mapping[str, float]
    tasks: Mapping[str, float]  # on holdout


@dataclass(frozen=True)
class Result:
    """The winner, every baseline, and what the winner is worth against the best of them on unseen items."""

    winner: Candidate
    best_baseline: str
    interval: Interval
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain objects for result.json."""
        interval = self.interval
        return {
            "winner": {"label": self.winner.label, "key": self.winner.key},
            "best_baseline": self.best_baseline,
            "verdict": interval.verdict,
            "difference": interval.difference,
            "interval": {"low": interval.low, "high": interval.high, "level": interval.level},
            "rows": [
                {"label": r.label, "role": r.role, "scores": _json_scores(r.scores), "tasks": dict(r.tasks)}
                for r in self.rows
            ],
        }


def finalise(evaluator: Evaluator, board: Board, baselines: Mapping[str, Recipe], top: int, seed: int) -> Result:
    """Score the top k and the baselines on `select`, the winner and the baselines on `holdout`, paired.

    The best baseline is the best on holdout: the claim is made against the strongest opponent. RunError where nothing
    could be scored.
    """
    standing = {label: Candidate.of(label, recipe) for label, recipe in baselines.items()}
    finalists = [candidate for candidate, _ in board.ranked()[:top]]
    able = [c for c in standing.values() if evaluator.error(c.key, "search") is None]
    entrants = list({c.key: c for c in (*able, *finalists)}.values())
    evaluator.evaluate(entrants, "select")
    winner = _claimed(evaluator, entrants, able)
    rival = _best(evaluator, able, "holdout")
    interval = paired_bootstrap(
        evaluator.items(winner.key, "holdout"),
        evaluator.items(rival.key, "holdout"),
        evaluator.plan.weights,
        task_of,
        seed=seed,
    )
    rows = [_row(evaluator, candidate, "baseline") for candidate in standing.values()]
    named = next((label for label, candidate in standing.items() if candidate.key == winner.key), "winner")
    rows.append(_row(evaluator, Candidate(named, winner.recipe, winner.key), "winner"))
    return Result(winner, rival.label, interval, tuple(rows))


def _claimed(evaluator: Evaluator, entrants: list[Candidate], able: list[Candidate]) -> Candidate:
    """The best on `select` that can be scored on holdout, where it and the baselines then are."""
    left = list(entrants)
    while True:
        winner = _best(evaluator, left, "select")
        evaluator.look("holdout", [winner.key, *(c.key for c in able)])
        evaluator.evaluate([winner, *able], "holdout")
        if evaluator.error(winner.key, "holdout") is None:
            return winner
        left = [c for c in left if c.key != winner.key]


def _json_scores(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores as JSON has them: a failure is null."""
    return {name: None if math.isnan(score) else score for name, score in scores.items()}


def _best(evaluator: Evaluator, candidates: list[Candidate], slice_name: str) -> Candidate:
    """The best on a slice; equal scores go to the better on `search`, then to the earlier."""
    scored = [c for c in candidates if evaluator.items(c.key, slice_name)]
    if not scored:
        raise RunError(f"no candidate could be scored on {slice_name}; the reasons are in trials.jsonl")
    return max(scored, key=lambda c: (evaluator.score(c.key, slice_name), evaluator.score(c.key, "search")))


def _row(evaluator: Evaluator, candidate: Candidate, role: str) -> Row:
    scores = {name: evaluator.score(candidate.key, name) for name in SLICES}
    tasks = evaluator.plan.by_task(evaluator.items(candidate.key, "holdout"))
    return Row(candidate.label, role, scores, tasks)
