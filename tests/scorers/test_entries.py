"""Task entries are read strictly; every mistake is one line that names the entry and the key."""

from typing import Any

import pytest

from evomerge.errors import TaskError
from evomerge.scorers.entries import Entry, read_entries

SIZES = {"search": 4, "select": 2, "holdout": "all"}


def test_a_bare_name_takes_every_default() -> None:
    assert read_entries(["mc"], SIZES) == (Entry("mc", SIZES),)


def test_an_entry_overrides_the_common_sizes() -> None:
    (entry,) = read_entries([{"name": "mc", "search": [3, 1], "select": None, "weight": 2}], SIZES)
    assert entry.wanted == {"search": (3, 1), "select": 2, "holdout": "all"}
    assert entry.weight == 2.0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "mc", "wieght": 2}, "task 'mc': unknown key 'wieght' (did you mean 'weight'?)"),
        ({"name": "mc", "splits": {"serach": "test"}}, "did you mean 'search'?"),
        ({"name": "a/b"}, "without '/'"),
        ({"weight": 1}, "task name None"),
        (7, "not 7"),
        ({"name": "mc", "weight": 0}, "weight=0 is not a number above 0"),
        ({"name": "mc", "weight": "heavy"}, "weight='heavy'"),
        ({"name": "mc", "search": 0}, "slice search is empty"),
        ({"name": "mc", "select": []}, "slice select is empty"),
        ({"name": "mc", "search": -3}, "search=-3 is not a count"),
        ({"name": "mc", "search": "most"}, "search='most'"),
        ({"name": "mc", "search": [1.5]}, "search=[1.5]"),
        ({"name": "mc", "num_fewshot": -1}, "num_fewshot=-1"),
        ({"name": "mc", "metric": 3}, "metric=3 is not a name"),
        ({"name": "mc", "gen_kwargs": "a=1"}, "gen_kwargs='a=1' is not a mapping"),
    ],
)
def test_mistakes_are_named(entry: Any, message: str) -> None:
    with pytest.raises(TaskError) as error:
        read_entries([entry], SIZES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_mistakes_of_the_whole_list() -> None:
    with pytest.raises(TaskError, match="'mc' is listed twice"):
        read_entries(["mc", {"name": "mc"}], SIZES)
    with pytest.raises(TaskError, match="no tasks"):
        read_entries([], SIZES)
    with pytest.raises(TaskError, match="no size for slice select; set select"):
        read_entries(["mc"], {"search": 1})
    with pytest.raises(TaskError, match=r"slices: unknown key 'hold' \(did you mean 'holdout'"):
        read_entries(["mc"], {"hold": 1})
