"""The selection on a toy whose truth is known: each expert knows some tasks, and a merge knows the union."""

import random
from collections.abc import Mapping, Sequence

import pytest

from evomerge.screening.config import ScreenConfig
from evomerge.screening.gains import Scored
from evomerge.screening.selection import Merge, Selection

TASKS = ("p", "q", "r", "s")
ITEMS = 20
WEIGHTS = dict.fromkeys(TASKS, 1.0)
KNOWN: dict[str, tuple[str, ...]] = {"ep": ("p",), "eq": ("q",), "er": ("r",), "es": ("s",)}
NOISE = [f"n{place}" for place in range(8)]


class Toy:
    """Scores merges: a task is right on 9 of 10 items if a member knows it, on 1 of 10 otherwise.

    A member of `poison` makes every merge forget all tasks; some items differ between merges by chance.
    """

    def __init__(self, known: Mapping[str, tuple[str, ...]] = KNOWN, poison: Sequence[str] = (), seed: int = 0) -> None:
        self._known, self._poison, self._seed = known, poison, seed
        self.merges: list[Merge] = []

    def scored(self, members: Merge) -> Scored:
        rng = random.Random(f"{self._seed}/{'+'.join(members)}")
        tasks = {task for label in members for task in self._known.get(label, ())}
        if len(members) > 1 and set(members) & set(self._poison):
            tasks = set()
        items = {f"{t}/{i}": float(rng.random() < (0.9 if t in tasks else 0.1)) for t in TASKS for i in range(ITEMS)}
        means = {task: sum(items[f"{task}/{i}"] for i in range(ITEMS)) / ITEMS for task in TASKS}
        return Scored(means, items)

    def __call__(self, merges: Sequence[Merge]) -> dict[Merge, Scored]:
        self.merges += merges
        return {merge: self.scored(merge) for merge in merges}


def select(labels: Sequence[str], toy: Toy, config: ScreenConfig, groups: Sequence[Merge] = ()) -> Selection:
    selection = Selection(toy.scored(()), {label: toy.scored((label,)) for label in labels}, WEIGHTS, config)
    selection.leave_similar(groups)
    selection.leave_without_gain()
    selection.leave_useless(toy)
    return selection


def kept(selection: Selection) -> set[str]:
    return set(selection.alone) - set(selection.reasons)


@pytest.mark.parametrize("seed", range(10))
def test_the_experts_that_matter_are_found(seed: int) -> None:
    toy = Toy(seed=seed)
    found = select([*NOISE, *KNOWN], toy, ScreenConfig(most=6))
    assert set(KNOWN) <= kept(found) and len(kept(found)) <= 6
    assert len(toy.merges) <= 2 * (len(KNOWN) + len(NOISE)) + 1


def test_the_order_of_the_experts_does_not_matter() -> None:
    labels = [*NOISE, *KNOWN]
    first = select(labels, Toy(), ScreenConfig(most=6))
    second = select(labels[::-1], Toy(), ScreenConfig(most=6))
    assert first.reasons == second.reasons and first.contributions == second.contributions


def test_of_two_experts_of_one_skill_one_leaves() -> None:
    """They are no copies, so cosines do not tell; without one the merge is as good, without both it is not."""
    known = KNOWN | {"ep2": ("p",)}
    found = select(list(known), Toy(known), ScreenConfig(most=4))
    assert len(kept(found)) == 4 and {"eq", "er", "es"} < kept(found)


def test_an_expert_that_is_good_alone_and_spoils_the_merge_leaves() -> None:
    known = KNOWN | {"bad": ("p", "q")}
    found = select(list(known), Toy(known, poison=["bad"]), ScreenConfig(most=4))
    assert max(known, key=lambda label: found.alone[label].mean(WEIGHTS)) == "bad"
    assert kept(found) == set(KNOWN)
    assert "the merge is as good without it" in found.reasons["bad"]


def test_of_a_group_the_best_stays_and_of_equal_ones_the_shortest() -> None:
    toy = Toy()
    scores = {"b": toy.scored(("ep",)), "a": toy.scored(("ep",)), "c": toy.scored(())}
    selection = Selection(toy.scored(()), scores, WEIGHTS, ScreenConfig(most=2), {"a": 2.0, "b": 1.0, "c": 0.5})
    selection.leave_similar([("a", "b", "c")])
    assert set(selection.reasons) == {"a", "c"} and "vector of b" in selection.reasons["a"]


def test_what_always_stays_does_so() -> None:
    config = ScreenConfig(most=3, always=("n0", "ep2"))
    known = KNOWN | {"ep2": ("p",)}
    found = select([*NOISE, *known], Toy(known), config, [("ep", "ep2")])
    assert {"n0", "ep2"} <= kept(found) and len(kept(found)) == 3 and "ep" in found.reasons


def test_where_nothing_gains_the_two_best_alone_stay() -> None:
    selection = select(NOISE, Toy({}), ScreenConfig(most=6))
    best = sorted(NOISE, key=lambda label: -selection.alone[label].mean(WEIGHTS))
    assert len(kept(selection)) >= 2 and best[0] in kept(selection)


def test_a_merge_that_cannot_be_scored_leaves_the_choice_to_the_scores_alone() -> None:
    def broken(merges: Sequence[Merge]) -> dict[Merge, Scored]:
        return {}

    toy, labels = Toy(), list(KNOWN)
    alone = {label: toy.scored((label,)) for label in labels}
    selection = Selection(toy.scored(()), alone, WEIGHTS, ScreenConfig(most=3))
    selection.leave_without_gain()
    selection.leave_useless(broken)
    worst = min(labels, key=lambda label: (selection.alone[label].mean(WEIGHTS), label))
    assert set(selection.reasons) == {worst}
