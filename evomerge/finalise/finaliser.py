"""From the search's best to an honest winner: choose on `select`, claim on `holdout`, against every baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from evomerge.errors import RunError
from evomerge.finalise.result import Beside, ParetoFront, Result, Row
from evomerge.finalise.sensitivity import Sensitivity, sensitivity
from evomerge.finalise.simplification import Simpler, backward
from evomerge.finalise.statistics import PairedTest, compare
from evomerge.recipes import ModelRef, Recipe
from evomerge.schema import Range
from evomerge.scoring import SLICES, task_of
from evomerge.searching import (
    Candidate,
    Evaluator,
    Leaderboard,
    diverse_subset,
    knee,
    normalised_hypervolume,
    pareto_front,
)
from evomerge.space import SearchSpace

MOST = 100_000  # candidates: far more than anyone has looked at


@dataclass(frozen=True, kw_only=True)
class FinaliseConfig:
    """How many of the best go from `search` to `select`, and what else is asked there.

    `simplify` candidates at most look for a simpler recipe, `cloud` points at `radius` around the winner for a flat
    optimum; 0 leaves it out.
    """

    top: Annotated[int, Range(1, MOST)] = 5
    simplify: Annotated[int, Range(0, MOST)] = 0
    cloud: Annotated[int, Range(0, MOST)] = 0
    radius: Annotated[float, Range(0, 1, without=(0, 1))] = 0.05


class Finaliser:
    """The end of a finished search; `run` is its story."""

    def __init__(
        self,
        evaluator: Evaluator,
        board: Leaderboard,
        baselines: Mapping[str, Recipe],
        settings: FinaliseConfig,
        seed: int,
    ) -> None:
        self._evaluator, self._board, self._settings, self._seed = evaluator, board, settings, seed
        self._several = evaluator.objective.front
        self._standing = {label: Candidate.of(label, recipe) for label, recipe in baselines.items()}
        self._able = [c for c in self._standing.values() if evaluator.error(c.key, "search") is None]

    def run(self, space: SearchSpace, labels: Mapping[ModelRef, str]) -> Result:
        """Choose, simplify, look around, then look at holdout; again with the next where the winner fails there."""
        evaluator, settings = self._evaluator, self._settings
        left = self._entrants(space)
        evaluator.evaluate(left, "select")
        while True:
            members = self._front(left)
            winner = members[knee(self._points(members, "select"))] if members else self._best(left, "select")
            simpler = backward(evaluator, winner, settings.simplify, labels) if settings.simplify else None
            around = sensitivity(evaluator, winner, space.decode, settings.cloud, settings.radius, self._seed)
            shown = [winner, *self._able, *members, *([simpler.candidate] if simpler else [])]
            evaluator.record_slice_use("holdout", [candidate.key for candidate in shown])
            evaluator.evaluate(shown, "holdout")
            if evaluator.error(winner.key, "holdout") is None:
                return self._result(winner, members, simpler, around)
            left = [c for c in left if c.key != winner.key]

    def _entrants(self, space: SearchSpace) -> list[Candidate]:
        """The baselines, the best of the search and its favourites, whatever rank on `search` luck gave them."""
        ranked = [candidate for candidate, _ in self._board.ranked()]
        best = self._spread(ranked) if self._several else ranked[: self._settings.top]
        best += self._favourites(space)
        return list({c.key: c for c in (*self._able, *best)}.values())

    def _spread(self, ranked: Sequence[Candidate]) -> list[Candidate]:
        """The best of several objectives: some of the front, far from one another; the baselines are there anyway."""
        standing = {c.key for c in self._able}
        found = [c for c in ranked if c.key not in standing]
        kept = _feasible(found, [self._board.fitness[c.key].violation for c in found])
        points = [tuple(self._board.fitness[c.key].values.values()) for c in kept]
        return [kept[place] for place in diverse_subset(points, self._settings.top)]

    def _favourites(self, space: SearchSpace) -> list[Candidate]:
        """The points that the search believes in as more candidates, where they can be scored."""
        points = self._board.predicted_optima.items()
        made = [Candidate.of(label, space.decode(vector), vector) for label, vector in points]
        self._evaluator.evaluate(made, "search")
        self._board.add(made)
        return [self._board.candidates[c.key] for c in made if self._evaluator.error(c.key, "search") is None]

    def _front(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Of several objectives, the candidates that none dominates on `select`; of one, none."""
        scored = [c for c in candidates if self._evaluator.item_scores(c.key, "select")] if self._several else []
        kept = _feasible(scored, [self._evaluator.fitness(c.key, "select").violation for c in scored])
        return [kept[place] for place in pareto_front(self._points(kept, "select"))]

    def _points(self, candidates: Sequence[Candidate], slice_name: str) -> list[tuple[float, ...]]:
        return [tuple(self._evaluator.fitness(c.key, slice_name).values.values()) for c in candidates]

    def _best(self, candidates: Sequence[Candidate], slice_name: str) -> Candidate:
        """The best on a slice; equals go to the better on `search`, then to the earlier."""
        scored = [c for c in candidates if self._evaluator.item_scores(c.key, slice_name)]
        if not scored:
            raise RunError(f"no candidate could be scored on {slice_name}; the reasons are in trials.jsonl")
        fitness = self._evaluator.fitness
        return max(scored, key=lambda c: (fitness(c.key, slice_name).rank, _known(fitness(c.key, "search").score)))

    def _result(
        self, winner: Candidate, members: list[Candidate], simpler: Simpler | None, around: Sensitivity | None
    ) -> Result:
        evaluator = self._evaluator
        rival = self._best(self._able, "holdout")
        rows = [self._row(candidate, "baseline") for candidate in self._standing.values()]
        named = next((label for label, c in self._standing.items() if c.key == winner.key), "winner")
        rows.append(self._row(winner, "winner", named))
        others = {c.label: evaluator.objective_items(c.key, "holdout") for c in self._able if c.key != winner.key}
        return Result(
            winner,
            rival.label,
            tuple(rows),
            self._compared(winner, {label: items for label, items in others.items() if items}),
            _gap(rows),
            evaluator.objective.floors(evaluator.baseline_means("holdout")),
            self._beside(winner, simpler) if simpler else None,
            around,
            self._covered(members),
        )

    def _compared(self, winner: Candidate, others: Mapping[str, Mapping[str, float]]) -> tuple[PairedTest, ...]:
        own = self._evaluator.objective_items(winner.key, "holdout")
        return compare(own, others, self._evaluator.objective.weights, task_of, self._seed)

    def _beside(self, winner: Candidate, simpler: Simpler) -> Beside:
        """The simpler recipe, and its row and difference to the winner where there is one that can be scored."""
        items = self._evaluator.objective_items(simpler.candidate.key, "holdout")
        if not simpler.steps or not items:
            return Beside(simpler)
        (against,) = self._compared(winner, {"simpler": items})
        return Beside(simpler, self._row(simpler.candidate, "simpler"), against.interval.reversed)

    def _covered(self, members: Sequence[Candidate]) -> ParetoFront | None:
        if not members:
            return None
        shown, standing = (
            [c for c in some if self._evaluator.item_scores(c.key, "holdout")] for some in (members, self._able)
        )
        points = self._points(shown, "holdout")
        share = normalised_hypervolume(points, [*points, *self._points(standing, "holdout")])
        rows = tuple(self._row(c, "member") for c in shown)
        return ParetoFront(tuple(shown), rows, self._evaluator.objective.tasks, share)

    def _row(self, candidate: Candidate, role: str, label: str | None = None) -> Row:
        scores = {name: self._evaluator.score(candidate.key, name) for name in SLICES}
        tasks = self._evaluator.plan.by_task(self._evaluator.item_scores(candidate.key, "holdout"))
        answers = self._evaluator.answer_counts(candidate.key, "holdout")
        return Row(label or candidate.label, role, candidate.key, scores, tasks, answers)


def _feasible(candidates: Sequence[Candidate], violations: Sequence[float]) -> list[Candidate]:
    """Those that break their floors least: where some break none, all of these."""
    least = min(violations, default=0.0)
    return [candidate for candidate, violation in zip(candidates, violations, strict=True) if violation <= least]


def _known(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _gap(rows: Sequence[Row]) -> dict[str, float | None]:
    """What the winner loses from search to holdout, beside what the baselines lose, whom nobody chose."""
    lost = [row.scores["search"] - row.scores["holdout"] for row in rows]
    others = [gap for gap in lost[:-1] if not math.isnan(gap)]
    return {
        "winner": None if math.isnan(lost[-1]) else lost[-1],
        "baselines": sum(others) / len(others) if others else None,
    }
