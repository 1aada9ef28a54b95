"""Task entries are read strictly; every mistake is one line that names the entry and the key."""

from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.scoring.tasks.task_entries import TaskEntry, read_tasks

SIZES = {"search": 4, "select": 2, "holdout": "all"}


def test_a_bare_name_takes_every_default() -> None:
    assert read_tasks(["mc"], SIZES) == (TaskEntry("mc", SIZES),)


def test_an_entry_overrides_the_common_sizes() -> None:
    (entry,) = read_tasks([{"name": "mc", "search": [3, 1], "select": None, "weight": 2}], SIZES)
    assert entry.slice_sizes == {"search": (3, 1), "select": 2, "holdout": "all"}
    assert entry.weight == 2.0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "mc", "wieght": 2}, "tasks.0.wieght: unknown key (did you mean 'weight'?)"),
        ({"name": "mc", "splits": {"serach": "test"}}, "give one of search, select, holdout"),
        ({"name": "a/b"}, "without '/'"),
        ({"weight": 1}, "tasks.0.name: missing"),
        (7, "tasks.0=7: give a name of one line"),
        ({"name": "mc", "weight": 0}, "tasks.0.weight=0: give a number above 0"),
        ({"name": "mc", "weight": "heavy"}, "weight=heavy: give a number"),
        ({"name": "mc", "search": 0}, "tasks.0.search=0: give a whole number at least 1"),
        ({"name": "mc", "select": []}, "slice select is empty"),
        ({"name": "mc", "search": -3}, "tasks.0.search=-3: give a whole number"),
        (
            {"name": "mc", "search": "most"},
            "search=most: give a whole number at least 1, at most 1000000000 or one of all",
        ),
        ({"name": "mc", "search": [1.5]}, "tasks.0.search.0=1.5: give a whole number or a text"),
        ({"name": "mc", "num_fewshot": -1}, "tasks.0.num_fewshot=-1: give"),
        ({"name": "mc", "metric": 3}, "tasks.0.metric=3: give a text"),
        ({"name": "mc", "gen_kwargs": "a=1"}, "tasks.0.gen_kwargs=a=1: give a mapping"),
    ],
)
def test_mistakes_are_named(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_tasks([entry], SIZES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_mistakes_of_the_whole_list() -> None:
    with pytest.raises(ConfigError, match="'mc' is listed twice"):
        read_tasks(["mc", {"name": "mc"}], SIZES)
    with pytest.raises(ConfigError, match="tasks is empty; name at least one"):
        read_tasks([], SIZES)
    with pytest.raises(ConfigError, match="no size for slice select; set select"):
        read_tasks(["mc"], {"search": 1})
    with pytest.raises(ConfigError, match=r"slices\.hold: unknown key \(did you mean 'holdout'"):
        read_tasks(["mc"], {"hold": 1})
