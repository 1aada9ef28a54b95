"""Descent on the slopes of item losses inside the unit cube: Adam (Kingma & Ba, ICLR 2015) with averaged iterates."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from evomerge.optimizers import Coordinate, Descent, SlopeReply, SlopeRequest, Terms, Vector
from evomerge.schema import OneOf, Range

DECAY, DECAY_SQUARES = 0.9, 0.99  # of the running means of slopes and of their squares
EPSILON = 1e-8
TRIED = 8  # items on which the seeds are compared; they differ by more than good merges do
AVERAGED = 0.25  # the share of the steps, at the end, whose iterates are averaged (Polyak & Juditsky 1992)
WORSE = 2  # a descent ends after so many passes that have not lowered the loss on the items kept for validation

Rate = Annotated[float, Range(0, 1, without=(0,))]
Batch = Annotated[int, Range(1, 10_000)]
Passes = Annotated[int, Range(1, 1000)]
Origin = Annotated[str, OneOf(("auto", "middle", "seeds"))]
Share = Annotated[float, Range(0, 0.5)]


@dataclass(frozen=True)
class DescentSettings:
    """Steps of at most `rate` of the cube's edge, falling to 0 by a cosine, on `batch` items each.

    Every item is used `passes` times, or less often if the budget does not pay for that. A share `validation` of the
    items is not descended on: the averaged iterate with the lowest loss on them is the result. The `origin` is the
    middle of the cube, or the seed with the lowest loss on TRIED items; auto is the latter if there are categories.
    """

    rate: float
    batch: int
    passes: int
    validation: float = 0.0
    origin: str = "auto"


class Descender:
    """One descent; `point`, `average` and `squares` are the last iterate, the result, and mean squared slopes."""

    def __init__(
        self, coordinates: Sequence[Coordinate], seeds: Sequence[Vector], settings: DescentSettings, seed: int
    ) -> None:
        origin = settings.origin
        if origin == "auto":  # the middle of categories is an arbitrary one of them
            origin = "seeds" if any(c.levels and not c.ordered for c in coordinates) else "middle"
        chosen = [np.clip(point, 0.0, 1.0) for point in seeds] if origin == "seeds" else []
        self._seeds = chosen or [np.array([_middle(c.levels) for c in coordinates])]
        self._settings, self._generator = settings, np.random.default_rng(seed)
        self.point = self.average = self._seeds[0]
        self.squares = np.zeros(len(coordinates))
        self._means = np.zeros(len(coordinates))
        self.steps = 0

    def run(self, terms: Terms) -> Descent:
        """Choose the origin, then descend for as long as the terms allow."""
        order = stratified(terms.tasks, self._generator)
        kept = order[: int(self._settings.validation * len(order))]
        used = order[len(kept) :]
        batch = min(self._settings.batch, len(used))
        allowance = terms.allowance
        tried = used[: min(TRIED, len(used))]
        if len(self._seeds) > 1 and allowance >= 4 * len(self._seeds) * len(tried):
            yield from self._choose_seed(tried, terms)
            allowance -= len(self._seeds) * len(tried)
        per_pass = len(used) * terms.price + len(kept)
        steps = math.ceil(len(used) / batch) * self._settings.passes
        steps = min(steps, int(allowance / per_pass * len(used) / batch))
        yield from self._descend(used, kept, batch, steps, terms)

    def _choose_seed(self, items: Sequence[int], terms: Terms) -> Descent:
        losses = []
        for point in self._seeds:
            reply = yield SlopeRequest(point, tuple(items), derivative=False)
            losses.append(weighted_mean(reply.losses, items, terms))
        self.point = self.average = self._seeds[int(np.argmin(losses))]

    def _descend(self, used: Sequence[int], kept: Sequence[int], batch: int, steps: int, terms: Terms) -> Descent:
        order: list[int] = []
        best, worse, result = math.inf, 0, self.average
        try:
            for step in range(1, steps + 1):
                if len(order) < batch:
                    order = [*order, *self._shuffled(used, terms)]
                items, order = tuple(order[:batch]), order[batch:]
                reply = yield SlopeRequest(self.point, items)
                assert reply.slope is not None
                self._step(reply.slope, step, steps)
                if kept and (step * batch) % len(used) < batch:
                    loss = yield from self._validate(kept, terms)
                    best, worse, result = (loss, 0, self.average) if loss < best else (best, worse + 1, result)
                    if worse == WORSE:
                        break
        finally:  # also where the budget ends first, and the generator is closed
            if math.isfinite(best):
                self.average = result

    def _validate(self, kept: Sequence[int], terms: Terms) -> Generator[SlopeRequest, SlopeReply, float]:
        reply = yield SlopeRequest(self.average, tuple(kept), derivative=False)
        return weighted_mean(reply.losses, kept, terms)

    def _shuffled(self, used: Sequence[int], terms: Terms) -> list[int]:
        order = stratified([terms.tasks[item] for item in used], self._generator)
        return [used[place] for place in order]

    def _step(self, slope: Vector, step: int, steps: int) -> None:
        """One step of Adam inside the cube, and the average of the last iterates."""
        self.steps = step
        self._means = DECAY * self._means + (1 - DECAY) * slope
        self.squares = DECAY_SQUARES * self.squares + (1 - DECAY_SQUARES) * slope**2
        rate = self._settings.rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        mean, square = self._means / (1 - DECAY**step), self.squares / (1 - DECAY_SQUARES**step)
        self.point = np.clip(self.point - rate * mean / (np.sqrt(square) + EPSILON), 0.0, 1.0)
        count = max(1, step - math.floor((1 - AVERAGED) * steps))  # iterates in the average, this one included
        self.average = self.point if count == 1 else self.average + (self.point - self.average) / count


def _middle(levels: int) -> float:
    """The middle of an axis; if it has levels, that of the cell around it, as a point between two cells is unstable."""
    return (levels // 2 + 0.5) / levels if levels else 0.5


def stratified(tasks: Sequence[str], generator: np.random.Generator) -> list[int]:
    """A random order of items in which every stretch has the tasks in their proportions."""
    shares = np.empty(len(tasks))
    for task in dict.fromkeys(tasks):
        places = np.flatnonzero(np.array([other == task for other in tasks]))
        shares[generator.permutation(places)] = (np.arange(len(places)) + generator.random()) / len(places)
    return [int(place) for place in np.argsort(shares, kind="stable")]


def weighted_mean(losses: Vector, items: Sequence[int], terms: Terms) -> float:
    """The weighted mean loss of some items."""
    weights = np.array([terms.weights[item] for item in items])
    return float((weights * losses).sum() / weights.sum())
