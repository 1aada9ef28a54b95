"""The answers to the slope requests of an optimizer, computed by the workers or found in the ledger.

A request's items are divided into parts of PART items, which workers compute independently. Their sums are added in the
order of the parts, so the result does not depend on the number of workers.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.errors import RunError
from evomerge.ledger import Ledger, SlopePrice
from evomerge.optimizers import SlopeReply, SlopeRequest, Vector
from evomerge.recipes import Recipe
from evomerge.scoring import task_of
from evomerge.searching.budget import RemainingBudget
from evomerge.space import SearchSpace
from evomerge.workers import Job, Slopes, SlopeWork
from evomerge.workers.pools import JobQueue, Pool

PART = 8  # items of a job
TIMED = 2 * PART  # items by which the seconds of a slope are measured, where time limits the search
SLACK = 1.15  # a step takes longer than its slopes: decoding, the ledger, other work of the machine
WITHOUT_SLOPES = "choose optimizer=cma with optimizer.start=seeds"  # the remedy where there can be no descent
UNLIMITED = 1e12  # an allowance that JSON can hold


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


@dataclass(frozen=True, eq=False)
class LocatedRequest:
    """A request, the recipe of its point, and the key of its answer in the ledger."""

    request: SlopeRequest
    recipe: Recipe
    key: str


class SlopeEvaluator:
    """Answers the slope requests of an optimizer, and records each answer in the ledger."""

    def __init__(self, items: SlopeItems, space: SearchSpace, pool: Pool, ledger: Ledger) -> None:
        self.items, self._space, self._pool, self._ledger = items, space, pool, ledger
        self.computed = 0.0  # item equivalents that the workers have computed, without those found in the ledger
        self.seconds = 0.0  # in which they were computed

    def weigh(self, task_weights: Mapping[str, float]) -> None:
        """Weight the items by task from now on."""
        self.items = SlopeItems.of(self.items.items, task_weights)

    def price(self, vector: Vector, remaining: RemainingBudget) -> SlopePrice:
        """The cost of one item with its slope, in forward passes, and what the budget has left; measured once.

        The cost is in operations. Where time limits the search, what is left follows from the seconds that slopes take.
        RunError if the model or the method cannot be differentiated.
        """
        if self._ledger.slope_price is None:
            recipe = self._space.decode(vector)
            work = self._work(tuple(range(self.measured)), derivative=True, measure=True)
            (slopes,) = self._compute(recipe, [work])
            assert slopes.price is not None
            price = round(slopes.price, 3)
            pace = SLACK * self._timed(recipe) / price if remaining.limits_hours else None
            allowance = min(remaining.item_allowance(pace), UNLIMITED)
            self._ledger.append_slope_price(SlopePrice(price, round(allowance, 3)))
        assert self._ledger.slope_price is not None
        return self._ledger.slope_price

    def _timed(self, recipe: Recipe) -> float:
        """Seconds per item with its slope, with all workers."""
        places, start = range(min(TIMED, len(self.items.items))), time.monotonic()
        self._compute(recipe, [self._work(part, True, False) for part in _parts(places)])
        return (time.monotonic() - start) / len(places)

    def measuring_cost(self, price: float, timed: bool) -> float:
        """The item equivalents that measuring has cost."""
        return self.measured * (1.0 + price) + (min(TIMED, len(self.items.items)) * price if timed else 0.0)

    @property
    def measured(self) -> int:
        """The number of items by which the price is measured."""
        return min(PART, len(self.items.items))

    @property
    def pace(self) -> float | None:
        """Seconds per item equivalent; None if this command has computed none."""
        return self.seconds / self.computed if self.computed else None

    def locate(self, request: SlopeRequest) -> LocatedRequest:
        """A request with the recipe of its point, which is decoded once."""
        # A slope is that of a point: several points may have the same recipe, under several schedules for instance.
        recipe, items = self._space.decode(request.vector), [self.items.items[place] for place in request.items]
        return LocatedRequest(
            request, recipe, _digest(recipe.key(), request.vector.tolist(), items, request.derivative)
        )

    def is_recorded(self, located: LocatedRequest) -> bool:
        """Whether the ledger has the answer to a request."""
        return located.key in self._ledger.slopes

    def reply(self, located: LocatedRequest, price: float) -> SlopeReply:
        """The losses, and the slope if it is wanted, from the ledger or from the workers."""
        request, recipe, key = located.request, located.recipe, located.key
        found = self._ledger.slopes.get(key)
        if found is None:
            start = time.monotonic()
            parts = [self._work(part, request.derivative, False) for part in _parts(request.items)]
            slopes = self._compute(recipe, parts)
            self.seconds += time.monotonic() - start
            self.computed += len(request.items) * (price if request.derivative else 1.0)
            found = self._ledger.append_slope(key, *self._combined(request, slopes))
        losses, slope = found
        return SlopeReply(np.array(losses), None if slope is None else np.array(slope))

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
            raise RunError(f"the slopes of a candidate are not finite; set model.dtype=float32, or {WITHOUT_SLOPES}")
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
                raise RunError(f"the slopes of a candidate cannot be computed ({outcome.error}); {WITHOUT_SLOPES}")
            found[outcome.job.chunk] = outcome.slopes
        return [found[job.chunk] for job in jobs]


def _parts(places: Sequence[int]) -> list[Sequence[int]]:
    return [places[first : first + PART] for first in range(0, len(places), PART)]


def _digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()
