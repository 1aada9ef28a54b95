"""The order of the items of a race: a partition of the slice, telling items first, and estimates without bias."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from evomerge.scoring.protocol import Plan, task_of
from evomerge.scoring.tasks.slices import make_chunks
from evomerge.searching.item_order import RATES, ItemOrder, agreement_levels, chunks_by_level

ITEMS = {"a": [f"a/{i}" for i in range(60)], "b": [f"b/{i}" for i in range(100)]}
PLAN = Plan({"search": make_chunks("search", ITEMS, 16)}, {"a": 1.0, "b": 3.0})


def baselines(seed: int = 0, rows: int = 5) -> list[dict[str, float]]:
    """0/1 scores of an item's own difficulty."""
    draw = np.random.default_rng(seed)
    chance = {item: draw.choice([0.0, 0.3, 0.7, 1.0]) for item in PLAN.items("search")}
    return [{item: float(draw.random() < p) for item, p in chance.items()} for _ in range(rows)]


LEVELS = agreement_levels(PLAN, baselines())
ANEW = replace(PLAN, chunks={"search": chunks_by_level(PLAN, LEVELS)})


def test_levels_say_where_baselines_agree_and_which_way_most_of_them_are() -> None:
    rows = [
        {"a/0": 1.0, "a/1": 0.0, "a/2": 1.0, "a/3": 0.0, "b/0": 0.5, "b/1": 0.9},
        {"a/0": 1.0, "a/1": 0.0, "a/2": 1.0, "a/3": 0.0, "b/0": 0.5, "b/1": 0.2},
        {"a/0": 1.0, "a/1": 0.0, "a/2": 0.0, "a/3": 1.0, "b/0": 0.5, "b/1": 0.3},
    ]
    plan = Plan(
        {"search": make_chunks("search", {"a": ["a/0", "a/1", "a/2", "a/3"], "b": ["b/0", "b/1"]}, 3)}, {"a": 1, "b": 1}
    )
    assert agreement_levels(plan, rows) == {
        "a/0": "agree",
        "a/1": "agree",
        "a/2": "mostly right",
        "a/3": "mostly wrong",
        "b/0": "agree",
        "b/1": "mostly wrong",
    }


def test_the_slice_dealt_anew_has_the_same_items_in_chunks_of_the_same_size() -> None:
    assert sorted(ANEW.items("search")) == sorted(PLAN.items("search"))
    sizes = [len(chunk.items) for chunk in ANEW.chunks["search"]]
    assert sizes == [len(chunk.items) for chunk in PLAN.chunks["search"]]
    assert chunks_by_level(PLAN, LEVELS) == ANEW.chunks["search"]
    assert {chunk.id for chunk in ANEW.chunks["search"]}.isdisjoint(chunk.id for chunk in PLAN.chunks["search"])


def test_telling_items_come_at_their_rates_until_there_are_none_left() -> None:
    order = ItemOrder.by_level(ANEW, LEVELS)
    early = Counter(LEVELS[item] for chunk in order.chunks[: order.rotating_chunks - 1] for item in chunk.items)
    rest = Counter(LEVELS[item] for chunk in order.chunks[order.rotating_chunks :] for item in chunk.items)
    whole = Counter(LEVELS.values())
    assert rest["mostly wrong"] == 0 < rest["agree"]
    drawn = {level: early[level] / whole[level] for level in RATES}
    assert drawn["mostly right"] / drawn["agree"] == pytest.approx(1.5, rel=0.2)
    assert drawn["mostly wrong"] / drawn["agree"] == pytest.approx(2.0, rel=0.2)


def test_where_baselines_agree_on_everything_the_order_is_an_even_one() -> None:
    levels = agreement_levels(PLAN, baselines(rows=1))
    order = ItemOrder.by_level(replace(PLAN, chunks={"search": chunks_by_level(PLAN, levels)}), levels)
    assert set(levels.values()) == {"agree"} and order.rotating_chunks == len(order.chunks)
    assert [chunk.items for chunk in order.chunks] == [chunk.items for chunk in PLAN.chunks["search"]]


@pytest.mark.parametrize("weights", [PLAN.weights, {"b": 3.0}])
@pytest.mark.parametrize("order", [ItemOrder.as_drawn(PLAN, True), ItemOrder.by_level(ANEW, LEVELS)])
def test_over_the_whole_slice_the_estimate_is_the_score(order: ItemOrder, weights: dict[str, float]) -> None:
    draw = np.random.default_rng(1)
    scores = {item: draw.random() for item in PLAN.items("search") if task_of(item) in weights}
    items = [item for chunk in order.generation_chunks(5) for item in chunk.items if item in scores]
    strata = order.strata(items, weights)
    assert strata.means(np.array([[scores[item] for item in items]]))[0] == pytest.approx(PLAN.score(scores), abs=1e-11)
    assert set(strata.item_weights) == {1.0}


def test_estimates_from_a_part_have_no_bias_though_its_items_were_chosen() -> None:
    """Candidates do worse where baselines do: a plain mean over telling items is far too low."""
    truth, found, plain = [], [], []
    for seed in range(400):
        draw = np.random.default_rng(seed)
        shuffled = {task: list(draw.permutation(ids)) for task, ids in ITEMS.items()}
        plan = replace(PLAN, chunks={"search": make_chunks("search", shuffled, 16)})
        anew = replace(plan, chunks={"search": chunks_by_level(plan, LEVELS)})
        order = ItemOrder.by_level(anew, LEVELS)
        chance = {"agree": 0.9, "mostly right": 0.6, "mostly wrong": 0.2}
        scores = {
            item: float(np.random.default_rng([7, i]).random() < chance[LEVELS[item]]) for i, item in enumerate(LEVELS)
        }
        items = [item for chunk in order.generation_chunks(seed)[:3] for item in chunk.items]
        found.append(order.strata(items, PLAN.weights).means(np.array([[scores[i] for i in items]]))[0])
        truth.append(PLAN.score(scores))
        plain.append(PLAN.score({item: scores[item] for item in items}))
    error = np.std(found) / len(found) ** 0.5
    assert np.mean(found) == pytest.approx(truth[0], abs=4 * error) and error < 0.01
    assert truth[0] - np.mean(plain) > 10 * error


def test_only_tasks_that_count_are_drawn_from() -> None:
    order = ItemOrder.by_level(ANEW, LEVELS)
    items = [item for item in ANEW.items("search") if task_of(item) == "b"][:40]
    strata = order.strata(items, {"b": 2.0})
    assert list(strata.task_weights) == [2.0] and list(strata.task_sizes) == [len(ITEMS["b"])]


@pytest.mark.parametrize(
    "sizes", [{"a": 100, "b": 3}, {f"t{task}": 12 for task in range(20)}, {"a": 5, "b": 60, "c": 1}]
)
def test_every_generation_begins_with_the_chunks_that_cover_the_tasks(sizes: dict[str, int]) -> None:
    items = {task: [f"{task}/{i}" for i in range(count)] for task, count in sizes.items()}
    chunks = make_chunks("search", items, 8)
    order = ItemOrder.as_drawn(Plan({"search": chunks}, dict.fromkeys(items, 1.0)), rotating=True)
    for number in range(len(chunks)):
        ordered, seen = order.generation_chunks(number), set[str]()
        assert sorted(chunk.id for chunk in ordered) == sorted(chunk.id for chunk in chunks)
        assert ordered[0] == chunks[number], "a few items must not begin every generation"
        for chunk in ordered:
            new = {task_of(item) for item in chunk.items} - seen
            assert new or seen == set(sizes)
            seen |= new


def test_chunks_that_hold_all_tasks_keep_their_order() -> None:
    chunks = PLAN.chunks["search"]
    assert ItemOrder.as_drawn(PLAN, rotating=True).generation_chunks(3) == (*chunks[3:], *chunks[:3])
