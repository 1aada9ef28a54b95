"""A descent on slopes, before the first generation: requests of the optimizer, answered by the workers or the ledger.

A request's items are divided into parts of PART items, which workers compute independently. Their sums are added in the
order of the parts, so the result does not depend on the number of workers.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evomerge.errors import RunError
from evomerge.ledger import Ledger, SlopePrice
from evomerge.optimizers import Descent, SlopeOptimizer, SlopeReply, SlopeRequest, Terms, Vector
from evomerge.recipes import Recipe
from evomerge.scoring import task_of
from evomerge.searching.budget import RemainingBudget
from evomerge.space import SearchSpace
from evomerge.workers import Job, Slopes, SlopeWork
from evomerge.workers.pools import JobQueue, Pool

log = logging.getLogger(__name__)

PART = 8  # items of a job
REMEDY = "choose optimizer=cma with optimizer.start=seeds"
UNLIMITED = 1e12  # an allowance that JSON can hold


class DescentCallback(Protocol):
    """Receives the progress of a descent."""

    def descent(self, step: int, loss: float) -> None:
        """Called after each request with a slope; `loss` is the mean loss of its items."""


@dataclass(frozen=True)
class SlopeItems:
    """The items that have a loss and their weights in the mean loss, which have the mean 1."""

    items: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, items: Sequence[str], task_weights: Mapping[str, float]) -> "SlopeItems":
        """Items weighted so that the weighted mean is the weighted mean of the task means."""
        sizes = {task: sum(task_of(item) == task for item in items) for task in task_weights}
        total = sum(weight for task, weight in task_weights.items() if sizes[task])
        share = {task: weight / total / sizes[task] for task, weight in task_weights.items() if sizes[task]}
        return cls(tuple(items), tuple(len(items) * share[task_of(item)] for item in items))


class SlopeEvaluator:
    """Answers the slope requests of an optimizer, and records each answer in the ledger."""

    def __init__(self, items: SlopeItems, space: SearchSpace, pool: Pool, ledger: Ledger) -> None:
        self.items, self._space, self._pool, self._ledger = items, space, pool, ledger
        self.computed = 0.0  # item equivalents that the workers have computed, without those found in the ledger
        self.seconds = 0.0  # in which they were computed

    def weigh(self, task_weights: Mapping[str, float]) -> None:
        """Weight the items by task from now on."""
        self.items = SlopeItems.of(self.items.items, task_weights)

    def price(self, vector: Vector, allowance: float) -> SlopePrice:
        """The cost of one item with its slope, in forward passes; measured once per search, in operations.

        RunError if the model or the method cannot be differentiated.
        """
        if self._ledger.slope_price is None:
            work = self._work(tuple(range(self.measured)), derivative=True, measure=True)
            (slopes,) = self._compute(self._space.decode(vector), [work])
            assert slopes.price is not None
            self._ledger.append_slope_price(SlopePrice(round(slopes.price, 3), round(allowance, 3)))
        assert self._ledger.slope_price is not None
        return self._ledger.slope_price

    @property
    def measured(self) -> int:
        """The number of items by which the price is measured."""
        return min(PART, len(self.items.items))

    @property
    def pace(self) -> float | None:
        """Seconds per item equivalent; None if this command has computed none."""
        return self.seconds / self.computed if self.computed else None

    def is_recorded(self, request: SlopeRequest) -> bool:
        """Whether the ledger has the answer to a request."""
        return self._key(self._space.decode(request.vector), request) in self._ledger.slopes

    def reply(self, request: SlopeRequest, price: float) -> SlopeReply:
        """The losses, and the slope if it is wanted, from the ledger or from the workers."""
        recipe = self._space.decode(request.vector)
        key = self._key(recipe, request)
        found = self._ledger.slopes.get(key)
        if found is None:
            parts = [request.items[first : first + PART] for first in range(0, len(request.items), PART)]
            start = time.monotonic()
            slopes = self._compute(recipe, [self._work(part, request.derivative, False) for part in parts])
            self.seconds += time.monotonic() - start
            self.computed += len(request.items) * (price if request.derivative else 1.0)
            found = self._ledger.append_slope(key, *self._combined(request, slopes))
        losses, slope = found
        return SlopeReply(np.array(losses), None if slope is None else np.array(slope))

    def _key(self, recipe: Recipe, request: SlopeRequest) -> str:
        # A slope is that of a point: several points may have the same recipe, under several schedules for instance.
        items = [self.items.items[place] for place in request.items]
        return _digest(recipe.key(), request.vector.tolist(), items, request.derivative)

    def _combined(self, request: SlopeRequest, slopes: Sequence[Slopes]) -> tuple[list[float], list[float] | None]:
        losses = [loss for part in slopes for loss in part.losses]
        if not request.derivative:
            return losses, None
        sums: dict[tuple[str, int | None], Vector] = {}
        for part in slopes:
            for owner, values in part.sums.items():
                sums[owner] = sums[owner] + values if owner in sums else values
        total = sum(self.items.weights[place] for place in request.items)
        slope = self._space.pull_back(request.vector, sums) / total
        if not np.isfinite(slope).all():  # a ledger holds no such number
            raise RunError(f"the slopes of a candidate are not finite; set model.dtype=float32, or {REMEDY}")
        return losses, [float(f"{value:.10g}") for value in slope]

    def _work(self, places: Sequence[int], derivative: bool, measure: bool) -> SlopeWork:
        items = tuple(self.items.items[place] for place in places)
        weights = tuple(self.items.weights[place] for place in places)
        return SlopeWork(items, weights, self._space.slope_genes if derivative else (), measure)

    def _compute(self, recipe: Recipe, parts: Sequence[SlopeWork]) -> list[Slopes]:
        key = recipe.key()
        jobs = [Job(key, recipe, f"slope/{number}", part) for number, part in enumerate(parts)]
        queue, found = JobQueue(jobs), dict[str, Slopes]()
        for outcome in self._pool.run(queue):
            queue.done(outcome.job)
            if outcome.slopes is None:
                raise RunError(f"the slopes of a candidate cannot be computed ({outcome.error}); {REMEDY}")
            found[outcome.job.chunk] = outcome.slopes
        return [found[job.chunk] for job in jobs]


def descend(
    optimizer: SlopeOptimizer,
    evaluator: SlopeEvaluator,
    remaining: RemainingBudget,
    start: Vector,
    callbacks: Sequence[DescentCallback] = (),
) -> None:
    """Run the optimizer's descent until it ends, or until the budget does."""
    terms = _terms(evaluator, remaining, start)
    descent, steps, reply = optimizer.descent(terms), 0, None
    while (request := _next(descent, reply)) is not None:
        reply = _reply(request, evaluator, remaining, terms.price, steps)
        if reply is None:
            break
        steps += request.derivative
        for callback in callbacks if request.derivative else ():
            callback.descent(steps, float(reply.losses.mean()))
    descent.close()
    if not steps:
        log.warning("no step of the descent was made: the budget does not pay for a step, or the first one failed")


def _terms(evaluator: SlopeEvaluator, remaining: RemainingBudget, start: Vector) -> Terms:
    """What the descent may spend, once the price is measured and counted."""
    recorded, items = evaluator.price(start, min(remaining.item_allowance(), UNLIMITED)), evaluator.items
    allowance = recorded.allowance if remaining.limits_hours else remaining.item_allowance()
    spent = evaluator.measured * (1.0 + recorded.price)
    remaining.record_slopes(spent)
    tasks = tuple(task_of(item) for item in items.items)
    return Terms(tasks, items.weights, allowance - spent, recorded.price)


def _next(descent: Descent, reply: SlopeReply | None) -> SlopeRequest | None:
    """The next request of a descent, or None at its end."""
    try:
        return next(descent) if reply is None else descent.send(reply)
    except StopIteration:
        return None


def _reply(
    request: SlopeRequest, evaluator: SlopeEvaluator, remaining: RemainingBudget, price: float, steps: int
) -> SlopeReply | None:
    """The reply to a request; None where the budget does not pay for it, or where it fails, which ends the descent."""
    cost = len(request.items) * (price if request.derivative else 1.0)
    if not remaining.pays_for(cost, evaluator.is_recorded(request), evaluator.pace):
        return None
    try:
        reply = evaluator.reply(request, price)
    except RunError as error:  # a point that diverged or cannot be built ends the descent, not the search
        log.warning("the descent ends after %d steps: %s", steps, error)
        return None
    remaining.record_slopes(cost)
    return reply


def _digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()
