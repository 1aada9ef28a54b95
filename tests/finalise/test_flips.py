"""Which items two models answer differently."""

from evomerge.finalise import Flip, flipped_items, shown_flips


def test_flips_are_sorted_by_their_size_and_keep_the_order_of_items() -> None:
    winner = {"a/0": 1.0, "a/1": 0.0, "a/2": 0.5, "a/3": 0.25, "a/4": 1.0}
    baseline = {"a/0": 1.0, "a/1": 1.0, "a/2": 0.25, "a/3": 0.5, "a/4": 0.0}
    found = flipped_items(winner, baseline)
    assert [flip.item for flip in found] == ["a/1", "a/4", "a/2", "a/3"]
    assert [flip.won for flip in found] == [False, True, True, False]


def test_items_without_two_numbers_are_left_out() -> None:
    assert flipped_items({"a/0": [1, 2], "a/1": 1.0, "a/2": 1.0}, {"a/0": [1, 1], "a/1": [0], "b/0": 0.0}) == []


def test_each_direction_is_shown_up_to_a_limit() -> None:
    flips = [Flip(f"a/{i}", float(i % 2), float(1 - i % 2)) for i in range(100)]
    assert [flip.item for flip in shown_flips(flips, True)] == [f"a/{i}" for i in range(1, 40, 2)]
    assert all(not flip.won for flip in shown_flips(flips, False)) and len(shown_flips(flips, False)) == 20
