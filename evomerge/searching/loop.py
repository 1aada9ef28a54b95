"""The search loop: ask the optimizer, decode its vectors to recipes, score them, tell the losses.

It imports no optimizer, no Ray, no lm-eval and no torch. These are behind the protocols `Optimizer`, `Pool` and
`Scorer`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from evomerge.errors import RunError
from evomerge.optimizers import AsynchronousOptimizer, Optimizer, SlopeOptimizer
from evomerge.recipes import Recipe
from evomerge.scoring import Scorer
from evomerge.searching.asynchronous import AsynchronousSearch
from evomerge.searching.budget import RemainingBudget
from evomerge.searching.deadline import Deadline, TimedEvaluation
from evomerge.searching.descent import descend
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.generation import item_order, run_generation, uses_races
from evomerge.searching.item_order import ItemOrder
from evomerge.searching.leaderboard import Leaderboard, SearchCallback
from evomerge.searching.open_race import OpenRace
from evomerge.searching.race import RaceConfig
from evomerge.searching.search_config import ASYNCHRONOUS, GENERATIONS
from evomerge.searching.slope_evaluator import SlopeEvaluator
from evomerge.searching.stages import Candidate
from evomerge.space import SearchSpace

SHARE_OF_BASELINES = 0.3  # of the time left, for the baselines on the search slice
NO_RACE = RaceConfig(enabled=False)


def search(
    evaluator: Evaluator,
    space: SearchSpace,
    optimizer: Optimizer,
    baselines: Mapping[str, Recipe],
    remaining: RemainingBudget,
    callbacks: Sequence[SearchCallback] = (),
    race: RaceConfig = NO_RACE,
    slopes: SlopeEvaluator | None = None,
    timed: TimedEvaluation | None = None,
    mode: str = GENERATIONS,
) -> Leaderboard:
    """Score the baselines, then generations until the budget is used up or the optimizer has no more points.

    If the budget ends within a generation, only its first candidates are scored and the optimizer is not told, so a
    search with a larger budget continues from the same state. The first baseline is the base; RunError if it cannot be
    scored. With `slopes`, an optimizer that descends on slopes does so before the first generation. With `timed`, the
    search slice is shortened where the baselines alone would take too much of the time. In the asynchronous `mode`
    the optimizer is an `AsynchronousOptimizer`.
    """
    board = Leaderboard(evaluator)
    timed = timed or TimedEvaluation(evaluator, Deadline(None), {})
    board.add(first := _score_baselines(evaluator, baselines, timed))
    order = item_order(evaluator, race)
    _notify(callbacks, 0, board, [board.fitness[candidate.key].score for candidate in first])
    if slopes:
        slopes.weigh(evaluator.objective.loss_weights(evaluator.baseline_means("search")))
        descend(cast(SlopeOptimizer, optimizer), slopes, remaining, np.full(space.dimensions, 0.5), callbacks)
    if uses_races(evaluator.objective, race):
        race = remaining.widen_race(race, space.dimensions)
    if mode == ASYNCHRONOUS:
        proposer, opened = cast(AsynchronousOptimizer, optimizer), OpenRace(evaluator, race, order)
        AsynchronousSearch(evaluator, space, proposer, remaining, board, opened, callbacks).run()
    else:
        _run_generations(evaluator, space, optimizer, remaining, board, callbacks, race, order)
    optima = {"centre": optimizer.centre(), "model": board.surrogate.best()}
    board.predicted_optima = {label: point for label, point in optima.items() if point is not None}
    return board


def _run_generations(
    evaluator: Evaluator,
    space: SearchSpace,
    optimizer: Optimizer,
    remaining: RemainingBudget,
    board: Leaderboard,
    callbacks: Sequence[SearchCallback],
    race: RaceConfig,
    order: ItemOrder,
) -> None:
    number = 0
    while (limit := remaining.next_generation_limit(number)) and (vectors := optimizer.ask(board.surrogate)):
        kept = vectors[:limit]
        candidates = [Candidate.of(f"{number + 1}/{place}", space.decode(v), v) for place, v in enumerate(kept)]
        if not remaining.begins_in_time(number, candidates):
            break
        number += 1
        scored = run_generation(evaluator, candidates, race, order, number)
        remaining.record(len(kept), scored.items_seen)
        board.add(candidates, scored.complete)
        losses: list[Any] = [evaluator.objective.loss(scored.fitness[c.key]) for c in candidates]
        if not evaluator.objective.front:
            board.surrogate.tell(kept, losses)
        _notify(callbacks, number, board, [scored.fitness[c.key].score for c in candidates])
        if len(kept) == len(vectors):
            optimizer.tell(vectors, losses)


def _score_baselines(evaluator: Evaluator, baselines: Mapping[str, Recipe], timed: TimedEvaluation) -> list[Candidate]:
    """Score the baselines on the search slice; a recorded failure of the base is discarded and the base tried again."""
    first = [Candidate.of(label, recipe) for label, recipe in baselines.items()]
    evaluator.clear_failures(first[0].key, "search")
    evaluator.copy_rechunked_scores()
    timed.evaluate(first, "search", SHARE_OF_BASELINES)
    evaluator.baselines = {candidate.label: candidate.key for candidate in first}
    if error := evaluator.error(first[0].key, "search"):
        raise RunError(f"the base itself cannot be scored: {error}; mend that, then repeat the command")
    return first


def _notify(callbacks: Sequence[SearchCallback], number: int, board: Leaderboard, scores: Sequence[float]) -> None:
    for callback in callbacks:
        callback.generation(number, board, scores)


def ledger_header(scorer: Scorer, config: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger's header entries that identify the search and are known before weights are read."""
    chunks = {chunk.id: list(chunk.items) for chunks in scorer.plan.chunks.values() for chunk in chunks}
    aggregates = {task: {"name": one.name, "sign": one.sign} for task, one in scorer.plan.aggregates.items()}
    known = {"config": dict(config), "chunks": chunks, "items": scorer.fingerprint}
    known |= {"functions": dict(scorer.functions)} if scorer.functions else {}
    return {**known, "aggregates": aggregates} if aggregates else known
