"""How the workers of a cluster are divided among the searches on it, without Ray."""

import random

import pytest

from evomerge.workers.pools._sharing import SILENT_AFTER, SharedCluster, divide


class Store:
    """The notes of all searches, in memory."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        return dict(self.notes)

    def write(self, search: str, note: str) -> None:
        self.notes[search] = note

    def remove(self, search: str) -> None:
        self.notes.pop(search, None)


@pytest.mark.parametrize(
    ("capacity", "wishes", "expected"),
    [
        (8, {"a": 8, "b": 8}, {"a": 4, "b": 4}),
        (8, {"a": 2, "b": 8}, {"a": 2, "b": 6}),
        (7, {"a": 8, "b": 8}, {"a": 4, "b": 3}),
        (2, {"a": 8, "b": 8, "c": 8}, {"a": 1, "b": 1, "c": 0}),
        (8, {"a": 3}, {"a": 3}),
        (0, {"a": 3}, {"a": 0}),
    ],
)
def test_workers_are_dealt_out_in_rounds(capacity: int, wishes: dict[str, int], expected: dict[str, int]) -> None:
    assert divide(capacity, wishes) == expected


def test_the_division_is_complete_and_nobody_envies_another() -> None:
    generator = random.Random(1)
    for _ in range(300):
        wishes = {str(n): generator.randint(0, 12) for n in range(generator.randint(1, 9))}
        capacity = generator.randint(0, 40)
        given = divide(capacity, wishes)
        assert sum(given.values()) == min(capacity, sum(wishes.values()))
        most = max(given.values())
        assert all(
            given[name] <= wish and (given[name] == wish or given[name] >= most - 1) for name, wish in wishes.items()
        )


def test_a_search_alone_has_what_it_wants_and_two_share() -> None:
    store, now = Store(), [0.0]
    first, second = (SharedCluster(store, lambda: now[0], name) for name in "ab")
    assert first.fair(8, 8) == 8
    assert second.fair(8, 8) == 4 and first.fair(8, 8) == 4 and first.others() == 1
    second.leave()
    assert first.fair(8, 8) == 8 and first.others() == 0


def test_a_killed_search_is_forgotten_and_a_paused_one_comes_back() -> None:
    store, now = Store(), [0.0]
    first, second = (SharedCluster(store, lambda: now[0], name) for name in "ab")
    second.fair(8, 8)
    assert first.fair(8, 8) == 4
    now[0] += SILENT_AFTER + 1
    assert first.fair(8, 8) == 8, "no sign of life for a minute"
    assert second.fair(8, 8) == 4 and first.fair(8, 8) == 4


def test_searches_with_workers_of_different_sizes() -> None:
    """Four workers of a quarter of a node want as much as one that takes a node."""
    store = Store()
    small, large = SharedCluster(store, name="a"), SharedCluster(store, name="b")
    small.fair(16, 16.0)
    assert large.fair(4, 4.0) == 2 and small.fair(16, 16.0) == 8


def test_every_search_has_at_least_one_worker() -> None:
    store = Store()
    searches = [SharedCluster(store, name=str(n)) for n in range(5)]
    assert [search.fair(4, 2.0) for search in searches][-1] == 1
