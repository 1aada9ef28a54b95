"""Batch plans: what each token sees, what is scored where, and limits that hold."""

import numpy as np
import pytest
import torch

from evomerge.scoring.engine.batches import Batch, BatchPlan, plan
from evomerge.scoring.engine.loglikelihood import tree_mask
from evomerge.scoring.engine.tree import Costs, Pair
from tests.scoring.engine.test_tree import families

COSTS = [Costs(200, 4096, 4096), Costs(50, 64, 16), Costs(9, 32, 8, overhead=-1000), Costs(9, 32, 8, overhead=10**6)]


def pairs(seed: int) -> list[Pair]:
    return [
        Pair(sequence[: -1 - i % 3], sequence[-1 - i % 3 :])
        for i, sequence in enumerate(families(seed, 12))
        if len(sequence) > 3
    ]


def seen(batch: Batch) -> np.ndarray:
    """[rows, length, prefix + length]: the mask as a plain truth table."""
    return tree_mask(batch, torch.float32, torch.device("cpu")).eq(0).squeeze(1).numpy()


def contexts(batch: Batch) -> dict[int, tuple[int, ...]]:
    """Flat place → the tokens that it sees, in order, itself included."""
    rows, length = batch.tokens.shape
    prefix, look = len(batch.prefix), seen(batch)
    return {
        row * length + i: batch.prefix + tuple(batch.tokens[row][look[row, i, prefix:]])
        for row in range(rows)
        for i in range(length)
    }


def asked(given: BatchPlan) -> dict[int, list[tuple[tuple[int, ...], int]]]:
    """Pair → (context, target) of every token that is scored for it."""
    found: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for batch in given.batches:
        views = contexts(batch)
        for scored, target, pair in zip(batch.scored, batch.targets, batch.pairs, strict=True):
            found.setdefault(int(pair), []).append((views[int(batch.states[scored])], int(target)))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("costs", COSTS)
def test_every_scored_token_sees_its_own_context_and_nothing_else(seed: int, costs: Costs) -> None:
    given = pairs(seed)
    found = asked(plan(given, 1000, costs))
    for number, pair in enumerate(given):
        whole = pair.context + pair.continuation
        first = len(pair.context)
        assert sorted(found[number]) == sorted((whole[:i], whole[i]) for i in range(first, len(whole)))


@pytest.mark.parametrize("costs", COSTS)
def test_positions_count_what_is_seen_and_prefixes_are_kept_before_they_are_used(costs: Costs) -> None:
    kept: set[tuple[int, ...]] = {()}
    for batch in plan(pairs(1), 1000, costs).batches:
        assert batch.prefix in kept
        depth = seen(batch).sum(-1) - 1
        real = np.isin(np.arange(batch.tokens.size), list(batch.states)).reshape(batch.tokens.shape)
        assert (batch.positions == depth)[real].all()
        if batch.keep:
            assert len(batch.tokens) == 1
            kept.add(batch.prefix + tuple(batch.tokens[0]))


def test_batches_stay_within_their_limits_or_hold_one_request() -> None:
    costs = Costs(200, 64, 16)
    for batch in plan(pairs(2), 1000, costs).batches:
        assert batch.tokens.size <= 64 or len(batch.tokens) == 1
    (long,) = plan([Pair(tuple(range(500)), (1,))], 1000, costs).batches
    assert long.tokens.shape == (1, 500)


def test_choices_of_one_token_cost_nothing_more() -> None:
    given = [Pair((1, 2, 3), (choice,)) for choice in range(10)]
    (batch,) = plan(given, 1000, COSTS[0]).batches
    assert batch.tokens.shape == (1, 3) and len(batch.states) == 1 and len(batch.targets) == 10


def test_a_plan_is_a_function_of_its_arguments() -> None:
    first, second = (plan(pairs(3), 1000, COSTS[1]) for _ in range(2))
    for one, other in zip(first.batches, second.batches, strict=True):
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Batch.__dataclass_fields__)
