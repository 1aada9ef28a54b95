"""Descent on slopes: convergence, bounds, costs, batches, validation, and CMA-ES that starts from it."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, Descent, SlopeReply, SlopeRequest, Terms, Vector, create, names, uses_slopes
from evomerge.optimizers._descent import stratified
from tests.toys import cube

PRICE = 2.5
OPTIMA = np.array([0.2, 0.7, 0.5, 1.4, -0.3])  # of the mean loss; two of them outside of the cube


def terms(items: int = 32, allowance: float = 1e6, weights: Sequence[float] | None = None) -> Terms:
    tasks = tuple("ab"[place % 2] for place in range(items))
    return Terms(tasks, tuple(weights or [1.0] * items), allowance, PRICE)


def noisy(request: SlopeRequest) -> SlopeReply:
    """Quadratic losses whose optima are scattered around OPTIMA, each item's own."""
    shifts = np.array([np.random.default_rng(item).normal(0.0, 0.2, len(OPTIMA)) for item in request.items])
    away = request.vector[: len(OPTIMA)] - (OPTIMA + shifts)
    return SlopeReply((away**2).sum(1), 2 * away.mean(0) if request.derivative else None)


def run(descent: Descent, reply: Callable[[SlopeRequest], SlopeReply] = noisy) -> list[SlopeRequest]:
    """Every request of a descent, answered."""
    found, answer = [], None
    try:
        while True:
            request = next(descent) if answer is None else descent.send(answer)
            found.append(request)
            answer = reply(request)
    except StopIteration:
        return found


def cost(requests: Sequence[SlopeRequest]) -> float:
    return sum(len(request.items) * (PRICE if request.derivative else 1.0) for request in requests)


def slope(seeds: Sequence[Vector] = (), seed: int = 1, **settings: Any) -> Any:
    return create("slope", cube(len(OPTIMA)), seeds, seed, settings)


def test_converges_to_the_optimum_in_the_cube() -> None:
    optimizer = slope(passes=40, batch=8)
    requests = run(optimizer.descent(terms()))
    centre = optimizer.centre()
    assert centre is not None and np.abs(centre - np.clip(OPTIMA, 0.0, 1.0)).max() < 0.05
    assert all((request.vector >= 0).all() and (request.vector <= 1).all() for request in requests)


def test_a_seed_decides_everything_and_replies_alone_resume_it() -> None:
    one, same, other = (run(slope(seed=seed).descent(terms())) for seed in (1, 1, 2))
    assert [r.vector.tolist() for r in one] == [r.vector.tolist() for r in same]
    assert [r.items for r in one] == [r.items for r in same] != [r.items for r in other]


def test_every_pass_uses_each_item_once_and_each_batch_has_its_share_of_every_task() -> None:
    requests = run(slope(passes=3, batch=8).descent(terms()))
    used = [item for request in requests for item in request.items]
    assert sorted(used) == sorted([*range(32)] * 3)
    for request in requests:
        assert 3 <= sum(item % 2 for item in request.items) <= 5


@pytest.mark.parametrize("allowance", [0.0, 30.0, 100.0, 200.0])
@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_spends_no_more_than_it_may(allowance: float, validation: float) -> None:
    optimizer = slope([np.zeros(5), np.ones(5)], validation=validation, origin="seeds")
    requests = run(optimizer.descent(terms(allowance=allowance)))
    assert cost(requests) <= allowance + len(requests[-1].items if requests else ())
    assert (optimizer.centre() is None) == (not any(request.derivative for request in requests))


def test_the_steps_fall_to_nothing_also_where_the_budget_is_short() -> None:
    requests = [r for r in run(slope(batch=8).descent(terms(allowance=130.0))) if r.derivative]
    steps = [np.abs(b.vector - a.vector).max() for a, b in pairwise(requests)]
    assert 4 <= len(requests) < 12 and steps[-1] < 0.6 * steps[0]


def test_starts_from_the_seed_with_the_lowest_loss() -> None:
    good, bad = np.clip(OPTIMA, 0.0, 1.0), np.full(5, 0.9)
    requests = run(slope([bad, good], origin="seeds").descent(terms()))
    tried = requests[:2]
    assert not any(r.derivative for r in tried) and len({r.items for r in tried}) == 1
    assert requests[2].derivative and (requests[2].vector == good).all()


def test_starts_in_the_middle_unless_there_are_categories() -> None:
    (first, *_) = run(slope([np.zeros(5)]).descent(terms()))
    assert first.derivative and (first.vector == 0.5).all()
    axes = [*cube(4), Coordinate("method", 2, ordered=False)]
    (first, *_) = run(create("slope", axes, [np.zeros(5)], 1, {}).descent(terms()))  # type: ignore[attr-defined]
    assert (first.vector == 0).all()


@pytest.mark.parametrize(("levels", "middle"), [(0, 0.5), (2, 0.75), (3, 0.5), (4, 0.625)])
def test_the_middle_of_levels_is_that_of_a_cell(levels: int, middle: float) -> None:
    """A point between two cells would flip with the smallest step of the search that follows."""
    optimizer: Any = create("slope", [*cube(4), Coordinate("takes_part", levels)], [], 1, {})
    (first, *_) = run(optimizer.descent(terms()))
    assert first.vector.tolist() == [0.5, 0.5, 0.5, 0.5, middle]


def test_validation_keeps_the_iterate_with_the_lowest_loss_and_ends_a_descent_that_over_fits() -> None:
    kept: set[int] = set()
    started: list[bool] = []

    def over_fitting(request: SlopeRequest) -> SlopeReply:
        """Slopes lead away from where the items that are not descended on have their lowest loss."""
        if not request.derivative:
            if started:
                kept.update(request.items)
            return SlopeReply(np.full(len(request.items), ((request.vector - 0.35) ** 2).sum()))
        started.append(True)
        assert not kept & set(request.items)
        return SlopeReply(np.zeros(len(request.items)), -np.ones(5))

    optimizer = slope([np.full(5, 0.3)], validation=0.25, passes=40, batch=8, rate=0.05, origin="seeds")
    requests = run(optimizer.descent(terms()), over_fitting)
    centre = optimizer.centre()
    assert len(kept) == 8 and len(requests) < 40 * 3 and np.abs(centre - 0.35).max() < 0.15


def test_weights_of_items_choose_the_seed() -> None:
    def losses(request: SlopeRequest) -> SlopeReply:
        """Item 0 wants the second seed, all others the first."""
        wanted = np.array([float(item == 0) for item in request.items])
        return SlopeReply(np.abs(request.vector[0] - wanted), np.zeros(5) if request.derivative else None)

    seeds = [np.zeros(5), np.ones(5)]
    for weights, first in (([1.0] * 4, 0.0), ([40.0, 1.0, 1.0, 1.0], 1.0)):
        requests = run(slope(seeds, batch=4, origin="seeds").descent(terms(4, weights=weights)), losses)
        assert next(r for r in requests if r.derivative).vector[0] == first


def test_stratified_orders_have_every_task_in_proportion() -> None:
    tasks = ["rare"] * 4 + ["common"] * 40
    order = stratified(tasks, np.random.default_rng(0))
    assert sorted(order) == list(range(44))
    assert all(sum(item < 4 for item in order[first : first + 22]) == 2 for first in (0, 22))


def test_only_optimizers_with_a_descent_use_slopes() -> None:
    assert [name for name in names() if uses_slopes(name, {})] == ["slope"]
    assert uses_slopes("cma", {"start": "slope"}) and not uses_slopes("cma", {"start": "seeds"})


@pytest.mark.parametrize("settings", [{"rate": 0.05}, {"share": 0.2, "batch": 8}, {"origin": "seeds"}])
def test_settings_of_a_descent_without_one_are_refused(settings: dict[str, Any]) -> None:
    first = next(iter(settings))
    with pytest.raises(ConfigError, match=rf"^optimizer\.{first}: without a descent .* optimizer\.start=slope"):
        create("cma", cube(2), [], 1, settings)
    create("cma", cube(2), [], 1, {"start": "slope", **settings})


def test_cma_begins_with_the_ends_of_a_descent_and_a_small_step_around_them() -> None:
    optimizer: Any = create("cma", cube(5), [np.zeros(5), np.ones(5)], 1, {"start": "slope", "passes": 20})
    requests = run(optimizer.descent(terms()))
    first = optimizer.ask()
    assert len(first) == 2 and all(np.abs(x - np.clip(OPTIMA, 0.0, 1.0)).max() < 0.1 for x in first)
    optimizer.tell(first, [0.0, 1.0])
    sampled = np.array(optimizer.ask())
    assert np.abs(sampled - first[0]).mean() < 0.15
    assert cost(requests) < 1e6


def test_a_descent_of_cma_spends_its_share() -> None:
    optimizer: Any = create("cma", cube(5), [], 1, {"start": "slope", "share": 0.5})
    assert 60 < cost(run(optimizer.descent(terms(allowance=200.0)))) <= 100


def test_cma_without_a_step_of_a_descent_begins_with_its_seeds() -> None:
    optimizer: Any = create("cma", cube(5), [np.zeros(5)], 1, {"start": "slope"})
    assert not run(optimizer.descent(terms(allowance=0.0)))
    assert (optimizer.ask()[0] == 0).all()


def test_cma_searches_axes_without_a_slope_as_widely_as_without_a_descent() -> None:
    def first_axis_alone(request: SlopeRequest) -> SlopeReply:
        slope = np.array([request.vector[0] - 0.3, 0.0, 0.0])
        return SlopeReply(np.full(len(request.items), slope[0] ** 2), slope if request.derivative else None)

    spread = []
    for start in ("slope", "seeds"):
        optimizer: Any = create("cma", cube(3), [np.full(3, 0.4)], 1, {"start": start, "population": 400, "screen": 1})
        if start == "slope":
            run(optimizer.descent(terms()), first_axis_alone)
        optimizer.tell(first := optimizer.ask(), [0.0] * len(first))
        spread.append(np.std(optimizer.ask(), axis=0))
    assert spread[0][0] < 0.5 * spread[1][0]
    assert spread[0][1:] == pytest.approx(spread[1][1:], rel=0.1)


def test_the_end_of_a_descent_is_the_centre_of_a_cma_that_had_no_budget_left() -> None:
    optimizer: Any = create("cma", cube(5), [np.zeros(5)], 1, {"start": "slope"})
    assert optimizer.centre() is None
    run(optimizer.descent(terms()))
    assert (optimizer.centre() == optimizer.ask()[0]).all()


def test_a_descent_that_is_closed_early_keeps_the_iterate_with_the_lowest_loss() -> None:
    optimizer = slope([np.full(5, 0.3)], validation=0.5, batch=8, rate=0.1)
    descent, reply, validated = optimizer.descent(terms()), None, []
    while len(validated) < 2:
        request = next(descent) if reply is None else descent.send(reply)
        reply = SlopeReply(np.full(len(request.items), request.vector[0]), -np.ones(5) if request.derivative else None)
        if not request.derivative and len(request.items) == 16:
            validated.append(request.vector)
    descent.send(reply)
    descent.close()
    assert (optimizer.centre() == validated[0]).all()
