"""The means of a plan's scores."""

import pytest

from evomerge.scoring.protocol import Chunk, Plan, task_of

PLAN = Plan(
    {"search": (Chunk("search/0", "search", ("a/x/0", "b/x/0")), Chunk("search/1", "search", ("a/x/1",)))},
    {"a": 1.0, "b": 3.0},
)


def test_items_come_in_chunk_order() -> None:
    assert PLAN.items("search") == ("a/x/0", "b/x/0", "a/x/1")
    assert task_of("a/leaf/x/0") == "a"


def test_scores_are_weighted_means_of_the_tasks_present() -> None:
    assert PLAN.by_task({"a/x/0": 1.0, "a/x/1": 0.0, "b/x/0": 1.0}) == {"a": 0.5, "b": 1.0}
    assert PLAN.score({"a/x/0": 1.0, "a/x/1": 0.0, "b/x/0": 1.0}) == 0.875
    assert PLAN.score({"a/x/0": 1.0}) == 1.0
    with pytest.raises(ValueError, match="no item scores"):
        PLAN.score({})
