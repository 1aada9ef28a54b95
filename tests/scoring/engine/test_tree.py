"""Token trees: every distinct beginning once, cut where that is cheapest, and nothing lost on the way."""

import random
from collections.abc import Iterator

import pytest

from evomerge.scoring.engine.tree import CachedPrefix, Costs, Pair, Tokens, TokenTree, build_trees, schedule_trees

SEQUENCES: list[Tokens] = [(1, 2, 3), (1, 2, 4, 5), (1, 2, 3), (7, 8), (1, 2), (1, 2, 4, 5, 6)]
PLAIN = Costs(width=100, max_tokens=10_000, max_states=10_000)


def paths(node: TokenTree, before: Tokens = ()) -> Iterator[tuple[int, Tokens]]:
    """(number, sequence) of everything that ends in a subtree."""
    here = before + node.tokens
    yield from ((number, here) for number in node.pairs)
    for child in node.children:
        yield from paths(child, here)


def covered(prefix: CachedPrefix, before: Tokens = ()) -> Iterator[tuple[int, Tokens]]:
    here = before + prefix.tokens
    yield from ((number, here) for number in prefix.pairs)
    for unit in prefix.units:
        yield from paths(unit, here)
    for deeper in prefix.extensions:
        yield from covered(deeper, here)


def prefixes(sequences: list[Tokens]) -> set[Tokens]:
    return {sequence[:i] for sequence in sequences for i in range(1, len(sequence) + 1)}


def test_a_tree_has_one_token_for_every_distinct_beginning() -> None:
    roots = build_trees(SEQUENCES)
    assert sum(root.size for root in roots) == len(prefixes(SEQUENCES)) == 8
    assert sorted(pair for root in roots for pair in paths(root)) == list(enumerate(SEQUENCES))


def families(seed: int, deep: int) -> list[Tokens]:
    """Random sequences that share beginnings of all lengths."""
    draw = random.Random(seed)
    starts: list[Tokens] = [()]
    for _ in range(60):
        start = draw.choice(starts)
        starts.append(start + tuple(draw.randrange(5) for _ in range(draw.randrange(1, deep))))
    return [start for start in starts if start]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "costs", [PLAIN, Costs(width=50, max_tokens=40, max_states=9), Costs(9, 30, 5, overhead=-1000)]
)
def test_cutting_loses_and_changes_nothing(seed: int, costs: Costs) -> None:
    sequences = families(seed, 30)
    assert sorted(covered(schedule_trees(build_trees(sequences), costs))) == list(enumerate(sequences))


def test_a_long_shared_beginning_is_cached_and_a_short_one_copied() -> None:
    items = [tuple(range(10 * i + 1000, 10 * i + 1050)) for i in range(0, 320, 5)]
    few_shot = schedule_trees(build_trees([tuple(range(600)) + item for item in items]), Costs(3456, 4096, 4096))
    assert [prefix.tokens for prefix in few_shot.extensions] == [tuple(range(600))] and not few_shot.units
    short = schedule_trees(build_trees([(1, 2, *item) for item in items]), Costs(600, 4096, 4096))
    assert not short.extensions and len(short.units) > 20
    assert all(unit.tokens == (1, 2) and unit.size <= 128 for unit in short.units)


def test_the_choices_of_one_item_stay_together() -> None:
    context = tuple(range(300))
    (unit,) = schedule_trees(build_trees([(*context, 1000 + i, 7, 8) for i in range(4)]), Costs(3456, 4096, 4096)).units
    assert unit.size == 312 and len(unit.children) == 4


def test_a_unit_is_never_larger_than_the_batch() -> None:
    costs = Costs(width=10**9, max_tokens=50, max_states=50, overhead=10**6)
    sequences = [(*range(20), 100 + i, *range(10)) for i in range(30)]
    assert 40 < max(unit.size for unit in schedule_trees(build_trees(sequences), costs).units) <= 50


def test_inputs_are_cut_on_the_left_as_in_the_harness() -> None:
    pair = Pair((1, 2, 3, 4), (5, 6))
    assert pair.inputs(10) == (1, 2, 3, 4, 5)
    assert pair.inputs(3) == (3, 4, 5)
