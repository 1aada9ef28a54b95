"""The plan's means, and that the room can be imported without the heavy libraries."""

import subprocess
import sys

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


def test_the_types_need_neither_torch_nor_lm_eval() -> None:
    code = "import sys, evomerge.scorers; print({'torch', 'lm_eval', 'datasets'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
