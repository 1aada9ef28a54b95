"""A descent on slopes, before the first generation: requests of the optimizer and their answers, within the budget."""

import logging
from collections.abc import Sequence
from typing import Protocol

from evomerge.errors import RunError
from evomerge.optimizers import Descent, SlopeOptimizer, SlopeReply, SlopeRequest, Terms, Vector
from evomerge.scoring import task_of
from evomerge.searching.budget import RemainingBudget
from evomerge.searching.slope_evaluator import SlopeEvaluator

log = logging.getLogger(__name__)


class DescentCallback(Protocol):
    """Receives the progress of a descent."""

    def descent(self, step: int, loss: float) -> None:
        """Called after each request with a slope; `loss` is the mean loss of its items."""


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
    recorded, items = evaluator.price(start, remaining), evaluator.items
    spent = evaluator.measuring_cost(recorded.price, remaining.limits_hours)
    remaining.record_slopes(spent)
    left = recorded.allowance if remaining.limits_hours else remaining.item_allowance()
    tasks = tuple(task_of(item) for item in items.items)
    return Terms(tasks, items.weights, left, recorded.price)


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
    located = evaluator.locate(request)
    if not remaining.pays_for(cost, evaluator.is_recorded(located), evaluator.pace):
        return None
    try:
        reply = evaluator.reply(located, price)
    except RunError as error:  # a point that diverged or cannot be built ends the descent, not the search
        log.warning("the descent ends after %d steps: %s", steps, error)
        return None
    remaining.record_slopes(cost)
    return reply
