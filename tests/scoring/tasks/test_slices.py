"""Slices are seeded, disjoint in ids and content; chunks hold their share of every task."""

from collections import Counter
from itertools import chain
from typing import Any

import pytest

from evomerge.errors import TaskError
from evomerge.scoring.tasks.slices import Doc, draw, make_chunks


def pool(count: int, split: str = "test", content: Any = str) -> list[Doc]:
    return [Doc(f"t/{split}/{i}", content(i)) for i in range(count)]


def drawn(wanted: dict[str, Any], docs: list[Doc], seed: int = 0, task: str = "t") -> dict[str, tuple[str, ...]]:
    return draw(task, dict.fromkeys(("search", "select", "holdout"), docs), wanted, seed)


def refused(wanted: dict[str, Any], docs: list[Doc]) -> str:
    with pytest.raises(TaskError) as error:
        drawn(wanted, docs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_counts_and_all_are_disjoint_and_complete() -> None:
    slices = drawn({"search": 30, "select": "all", "holdout": 20}, pool(100))
    assert [len(slices[name]) for name in ("search", "select", "holdout")] == [30, 50, 20]
    assert len(set().union(*slices.values())) == 100


def test_the_seed_and_the_name_decide() -> None:
    wanted = {"search": 30, "select": 30, "holdout": 20}
    assert drawn(wanted, pool(100)) == drawn(wanted, pool(100))
    assert drawn(wanted, pool(100)) != drawn(wanted, pool(100), seed=1)
    assert drawn(wanted, pool(100)) != drawn(wanted, pool(100), task="u")


@pytest.mark.parametrize("holdout", [10, "all", (1, 3, 5, 7)])
def test_equal_content_stays_in_one_slice(holdout: Any) -> None:
    docs = pool(60, content=lambda i: str(i // 2))
    slices = drawn({"search": 10, "select": 10, "holdout": holdout}, docs)
    contents = {doc.item: doc.content for doc in docs}
    seen = [{contents[item] for item in items} for items in slices.values()]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_explicit_ids_keep_their_order_and_take_every_spelling() -> None:
    slices = drawn({"search": (11, "test/3", "t/test/7"), "select": "all", "holdout": 5}, pool(20))
    assert slices["search"] == ("t/test/11", "t/test/3", "t/test/7")
    assert len(slices["select"]) == 12


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"search": (1, 2, 3), "select": (2, 9), "holdout": 3}, "t/test/2 in both search and select"),
        (
            {"search": (1, 20), "select": 3, "holdout": 3},
            "names document 20, which is not there; ids are 0 to 19",
        ),
        ({"search": (1, 4, 1), "select": 3, "holdout": 3}, "search lists t/test/1 twice"),
        (
            {"search": 15, "select": 3, "holdout": 3},
            "holdout asks for 3 items, but only 2 documents are not in another slice",
        ),
        ({"search": 10, "select": 10, "holdout": 3}, "slice holdout is empty"),
        ({"search": "all", "select": "all", "holdout": 3}, "slice select is empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wanted: dict[str, Any], message: str) -> None:
    assert message in refused(wanted, pool(20))


def test_explicit_ids_of_equal_content_are_refused_by_name() -> None:
    docs = pool(20, content=lambda i: str(i % 10))
    message = refused({"search": (1, 2), "select": (12, 3), "holdout": 3}, docs)
    assert "search and select ask the same in t/test/2 = t/test/12" in message


def test_a_bare_row_is_ambiguous_in_a_group() -> None:
    docs = pool(5, "left") + pool(5, "right")
    assert "could be left/3, right/3" in refused({"search": (3,), "select": 2, "holdout": 2}, docs)


def test_chunks_are_equal_and_stratified() -> None:
    items = {name: [f"{name}/x/{i}" for i in range(count)] for name, count in (("a", 100), ("b", 40), ("c", 7))}
    chunks = make_chunks("search", items, 32)
    assert [chunk.id for chunk in chunks] == [f"search/{i}" for i in range(5)]
    assert sorted(item for chunk in chunks for item in chunk.items) == sorted(chain(*items.values()))
    for chunk in chunks:
        assert 29 <= len(chunk.items) <= 30
        share = Counter(item[0] for item in chunk.items)
        assert abs(share["a"] - 20) <= 1 and abs(share["b"] - 8) <= 1 and abs(share["c"] - 1.4) < 1
    assert chunks == make_chunks("search", items, 32)


@pytest.mark.parametrize("sizes", [(30, 20, 20), (30, "all", 20), ("all", 20, 20), (30, 20, "all")])
def test_used_contents_are_in_search_alone(sizes: tuple[Any, ...]) -> None:
    docs = pool(100, content=lambda i: str(i % 95))  # five documents stand twice
    wanted, used = dict(zip(("search", "select", "holdout"), sizes, strict=True)), {str(i) for i in range(40)}
    slices = draw("t", dict.fromkeys(wanted, docs), wanted, 0, used)
    contents = {doc.item: doc.content for doc in docs}
    assert not {contents[item] for name in ("select", "holdout") for item in slices[name]} & used
    assert {contents[item] for item in slices["search"]} & used
    assert all(len(slices[name]) == size for name, size in wanted.items() if size != "all")
    assert draw("t", dict.fromkeys(wanted, docs), wanted, 0, set()) == drawn(wanted, docs)


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (
            70,
            "holdout asks for 70 items, but runs of init have searched or selected on 40 of the documents and leave 40",
        ),
        ((3, 90), "a run of init has searched or selected on t/test/3, so holdout cannot hold it; list others"),
    ],
)
def test_too_few_unused_documents_are_one_line(holdout: Any, message: str) -> None:
    wanted = {"search": 10, "select": 20, "holdout": holdout}
    with pytest.raises(TaskError, match=message) as error:
        draw("t", dict.fromkeys(wanted, pool(100)), wanted, 0, {str(i) for i in range(40)})
    assert "init" in str(error.value) and "\n" not in str(error.value)
