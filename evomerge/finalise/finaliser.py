"""Selects the winner of a search on `select` and compares it with every baseline on `holdout`."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from evomerge.errors import RunError
from evomerge.finalise.config import FinaliseConfig
from evomerge.finalise.findings import Findings, ParetoFront
from evomerge.finalise.resampling import Resampler, compare_resampled
from evomerge.finalise.router_trial import Calibrate, RouterTrial, try_routers
from evomerge.finalise.rows import Row
from evomerge.finalise.sensitivity import measure_sensitivity
from evomerge.finalise.simplification import Simplification, eliminate_backward
from evomerge.finalise.statistics import PairedTest, compare
from evomerge.finalise.twins import find_suspects
from evomerge.optimizers import Vector
from evomerge.recipes import ModelRef, Recipe
from evomerge.scoring import SLICES, task_of
from evomerge.searching import (
    Candidate,
    Deadline,
    Evaluator,
    Leaderboard,
    TimedEvaluation,
    diverse_subset,
    knee,
    normalised_hypervolume,
    pareto_front,
)
from evomerge.space import SearchSpace

log = logging.getLogger(__name__)

ROUTER_TRIAL = 3  # slices of the size of `select` that it is worth: the fitting, `search` and `select`
SHARE_OF_OPTIONAL = 0.2  # of the time left that simplification, or the cloud around the winner, may take


class Finaliser:
    """Selects the winner of a finished search and compares it with the baselines; `run` does all of it.

    `show_phase` gets the name of each step as it begins. With `timed`, slices are shortened to the time that is left,
    and steps that are not needed for a result are left out where they would take too much of it. `calibrate` returns a
    recipe with calibrated routers, or None where they cannot be calibrated.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        board: Leaderboard,
        baselines: Mapping[str, Recipe],
        config: FinaliseConfig,
        seed: int,
        show_phase: Callable[[str], None] = lambda name: None,
        timed: TimedEvaluation | None = None,
        calibrate: Calibrate | None = None,
    ) -> None:
        self._evaluator, self._board, self._config, self._seed = evaluator, board, config, seed
        self._show_phase, self._calibrate = show_phase, calibrate
        self._timed = timed or TimedEvaluation(evaluator, Deadline(None), {})
        self._baselines = [Candidate.of(label, recipe) for label, recipe in baselines.items()]
        self._scored_baselines = [c for c in self._baselines if evaluator.error(c.key, "search") is None]

    def run(self, space: SearchSpace, labels: Mapping[ModelRef, str]) -> Findings:
        """Select and simplify the winner, measure its sensitivity, then score it and the baselines on holdout.

        If the winner fails on holdout, the same is repeated without it. RunError if no candidate can be scored on
        `select`.
        """
        evaluator, config = self._evaluator, self._config
        self._show_phase("finalists")
        finalists = self._finalists(space)
        self._show_phase("select")
        self._timed.evaluate(finalists, "select", self._share_of_select(len(finalists)))
        while True:
            members = self._front_members(finalists)
            chosen = self._winner(finalists, members)
            routers = self._router_trial(chosen)
            winner = routers.candidate if routers and routers.is_better else chosen
            self._show_phase("simplify")
            tried = self._affordable(config.simplify, "simplify")
            simplification = eliminate_backward(evaluator, winner, tried, labels) if tried else None
            self._show_phase("cloud")
            cloud = self._affordable(config.cloud, "cloud")
            around = _decoder(space, winner)
            sensitivity = measure_sensitivity(evaluator, winner, around, cloud, config.radius, self._seed)
            on_holdout = [winner, *self._scored_baselines, *members]
            on_holdout += [simplification.candidate] if simplification else []
            self._show_phase("holdout")
            evaluator.record_slice_use("holdout", [candidate.key for candidate in on_holdout])
            self._timed.evaluate(on_holdout, "holdout")
            if evaluator.error(winner.key, "holdout") is None:
                return replace(
                    self._findings(winner),
                    simplification=simplification and self._scored_simplification(winner, simplification),
                    sensitivity=sensitivity,
                    front=self._scored_front(members),
                    routers=routers,
                )
            finalists = [c for c in finalists if c.key != chosen.key]

    def _router_trial(self, winner: Candidate) -> RouterTrial | None:
        """The winner with calibrated routers on `select`; None where that is not wanted, not possible or too slow."""
        if self._calibrate is None or not self._affordable(ROUTER_TRIAL, "calibrate_routers"):
            return None
        self._show_phase("routers")
        return try_routers(self._evaluator, winner, self._calibrate)

    def _share_of_select(self, finalists: int) -> float:
        """The part of the time left that `select` may take, by the items of both slices."""
        items = self._evaluator.plan.items
        on_select = finalists * len(items("select"))
        return on_select / (on_select + (len(self._scored_baselines) + 2) * len(items("holdout")))

    def _affordable(self, candidates: int, step: str) -> int:
        """The candidates of an optional step on `select`, or 0 where they would take too much of the time left."""
        if self._timed.affords(step, candidates * len(self._evaluator.plan.items("select")), SHARE_OF_OPTIONAL):
            return candidates
        log.warning("finalise.%s is left out, because budget.hours leaves no time for it", step)
        return 0

    def _finalists(self, space: SearchSpace) -> list[Candidate]:
        """The candidates for `select`: baselines, the best of the search, and predicted optima whatever their rank."""
        ranked = [candidate for candidate, _ in self._board.ranked()]
        several = self._evaluator.objective.front
        best = self._diverse_best(ranked) if several else ranked[: self._config.top]
        best += self._predicted_optima(space)
        return list({c.key: c for c in (*self._scored_baselines, *best)}.values())

    def _diverse_best(self, ranked: Sequence[Candidate]) -> list[Candidate]:
        """For several objectives: a diverse subset of the non-dominated candidates, without the baselines."""
        baseline_keys = {c.key for c in self._scored_baselines}
        proposed = [c for c in ranked if c.key not in baseline_keys]
        feasible = _least_violating(proposed, [self._board.fitness[c.key].violation for c in proposed])
        points = [tuple(self._board.fitness[c.key].values.values()) for c in feasible]
        return [feasible[place] for place in diverse_subset(points, self._config.top)]

    def _predicted_optima(self, space: SearchSpace) -> list[Candidate]:
        """The predicted optima of optimizer and surrogate model, scored on `search`; those that fail are left out."""
        points = self._board.predicted_optima.items()
        optima = [Candidate.of(label, space.decode(vector), vector) for label, vector in points]
        self._evaluator.evaluate(optima, "search")
        self._board.add(optima)
        return [self._board.candidates[c.key] for c in optima if self._evaluator.error(c.key, "search") is None]

    def _winner(self, finalists: Sequence[Candidate], members: Sequence[Candidate]) -> Candidate:
        """For several objectives the knee of the front, for one objective the best on `select`."""
        return members[knee(self._objective_values(members, "select"))] if members else self._best(finalists, "select")

    def _front_members(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates that are not dominated on `select`; empty for a single objective."""
        if not self._evaluator.objective.front:
            return []
        scored = [c for c in candidates if self._evaluator.item_scores(c.key, "select")]
        feasible = _least_violating(scored, [self._evaluator.fitness(c.key, "select").violation for c in scored])
        return [feasible[place] for place in pareto_front(self._objective_values(feasible, "select"))]

    def _objective_values(self, candidates: Sequence[Candidate], slice_name: str) -> list[tuple[float, ...]]:
        return [tuple(self._evaluator.fitness(c.key, slice_name).values.values()) for c in candidates]

    def _best(self, candidates: Sequence[Candidate], slice_name: str) -> Candidate:
        """The best candidate on a slice; of equal ones the better on `search`, then the earlier."""
        scored = [c for c in candidates if self._evaluator.item_scores(c.key, slice_name)]
        if not scored:
            raise RunError(f"no candidate could be scored on {slice_name}; the reasons are in trials.jsonl")
        fitness = self._evaluator.fitness
        return max(scored, key=lambda c: (fitness(c.key, slice_name).rank, _comparable(fitness(c.key, "search").score)))

    def _findings(self, winner: Candidate) -> Findings:
        """The rows and comparisons on holdout."""
        evaluator = self._evaluator
        best_baseline = self._best(self._scored_baselines, "holdout")
        rows = [self._row(candidate, "baseline") for candidate in self._baselines]
        winner_label = next((c.label for c in self._baselines if c.key == winner.key), "winner")
        rows.append(self._row(winner, "winner", winner_label))
        others = [c for c in self._scored_baselines if c.key != winner.key]
        levels = evaluator.objective.floors(evaluator.baseline_means("holdout"))
        lengths = evaluator.objective.lengths
        return Findings(
            winner,
            best_baseline.label,
            tuple(rows),
            self._comparisons(winner, {c.label: c.key for c in others}),
            _generalisation_gap(rows),
            {name: level for name, level in levels.items() if name not in lengths},
            {name: -level for name, level in levels.items() if name in lengths},
            suspects=find_suspects(evaluator, winner, self._scored_baselines),
        )

    def _comparisons(self, winner: Candidate, others: Mapping[str, str]) -> tuple[PairedTest, ...]:
        """The comparisons with the other models (label → key) that could be scored on holdout."""
        evaluator = self._evaluator
        scored = {label: key for label, key in others.items() if evaluator.item_scores(key, "holdout")}
        if evaluator.objective.corpus_level:
            resampler = Resampler(evaluator, "holdout", self._seed)
            others_resampled = {label: resampler.of(key) for label, key in scored.items()}
            return compare_resampled(resampler.of(winner.key), others_resampled)
        items = {label: evaluator.objective_items(key, "holdout") for label, key in scored.items()}
        winner_items = evaluator.objective_items(winner.key, "holdout")
        return compare(winner_items, items, evaluator.objective.weights, task_of, self._seed)

    def _scored_simplification(self, winner: Candidate, simplification: Simplification) -> Simplification:
        """The simplification with its row and its difference to the winner, if it took a step and was scored."""
        comparisons = self._comparisons(winner, {"simpler": simplification.candidate.key})
        if not simplification.steps or not comparisons:
            return simplification
        row = self._row(simplification.candidate, "simpler")
        return replace(simplification, row=row, interval=comparisons[0].interval.negated)

    def _scored_front(self, members: Sequence[Candidate]) -> ParetoFront | None:
        """The members that could be scored on holdout, with their rows; None for a single objective."""
        if not members:
            return None
        scored, baselines = (
            [c for c in candidates if self._evaluator.item_scores(c.key, "holdout")]
            for candidates in (members, self._scored_baselines)
        )
        points = self._objective_values(scored, "holdout")
        hypervolume = normalised_hypervolume(points, [*points, *self._objective_values(baselines, "holdout")])
        rows = tuple(self._row(c, "member") for c in scored)
        return ParetoFront(tuple(scored), rows, self._evaluator.objective.tasks, hypervolume)

    def _row(self, candidate: Candidate, role: str, label: str | None = None) -> Row:
        scores = {name: self._evaluator.score(candidate.key, name) for name in SLICES}
        measures = self._evaluator.means(candidate.key, "holdout")
        tasks = {task: measures[task] for task in self._evaluator.plan.weights if task in measures}
        lengths = {name: -measures[name] for name in self._evaluator.objective.lengths if name in measures}
        answers = self._evaluator.answer_counts(candidate.key, "holdout")
        return Row(label or candidate.label, role, candidate.key, scores, tasks, answers, lengths)


def _decoder(space: SearchSpace, winner: Candidate) -> Callable[[Vector], Recipe]:
    """The recipe of a point of the space, with the calibrated routers of the winner, if it has any."""
    routers = winner.recipe.routers
    return space.decode if routers is None else lambda vector: space.decode(vector).with_routers(routers)


def _least_violating(candidates: Sequence[Candidate], violations: Sequence[float]) -> list[Candidate]:
    """The feasible candidates, or, if there is none, those with the least violation of the floors."""
    least = min(violations, default=0.0)
    return [candidate for candidate, violation in zip(candidates, violations, strict=True) if violation <= least]


def _comparable(score: float) -> float:
    """The score, or −∞ for NaN, which would make an order undefined."""
    return -math.inf if math.isnan(score) else score


def _generalisation_gap(rows: Sequence[Row]) -> dict[str, float | None]:
    """How much score the winner loses from search to holdout, and the baselines in the mean.

    The baselines were not selected by their scores, so their loss shows how far the slices differ in difficulty.
    """
    losses = [row.scores["search"] - row.scores["holdout"] for row in rows]
    others = [loss for loss in losses[:-1] if not math.isnan(loss)]
    return {
        "winner": None if math.isnan(losses[-1]) else losses[-1],
        "baselines": sum(others) / len(others) if others else None,
    }
