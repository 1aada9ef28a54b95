"""The stopping rule: what it may decide, how often it is wrong, and that it asks nothing but the scores."""

import itertools

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.schema import build
from evomerge.searching.race import Matrix, RaceConfig, Strata, confidence_sequence_width, decide

RULE = RaceConfig(margin=0.5, least=8, most=None)


def strata(seen: int, total: int, tasks: int = 2) -> Strata:
    """Items dealt to the tasks in turn, as chunks hold them."""
    totals = np.array([len(range(task, total, tasks)) for task in range(tasks)])
    return Strata(np.arange(seen) % tasks, np.ones(seen), totals, np.ones(tasks))


def answers(means: list[float], items: int, seed: int) -> Matrix:
    """0/1 scores that share the difficulty of their items."""
    difficulty = np.random.default_rng(seed).random(items)
    return np.array([(difficulty < mean).astype(float) for mean in means])


def noisy(means: list[float], items: int, seed: int) -> Matrix:
    """0/1 scores that share nothing."""
    draw = np.random.default_rng(seed)
    return np.array([(draw.random(items) < mean).astype(float) for mean in means])


def race(scores: Matrix, best: int, rule: RaceConfig, stage: int = 16) -> tuple[set[int], int]:
    """The rows that end among the best, and the items that were paid for."""
    rows, total = scores.shape
    running, accepted, rejected, paid, seen = list(range(rows)), set(), set(), 0, 0
    while running and seen < total:
        step = min(stage, total - seen)
        seen, paid = seen + step, paid + step * len(running)
        if seen < total:
            inside, outside = decide(scores[running, :seen], strata(seen, total), best - len(accepted), rule)
            accepted |= {running[row] for row in inside}
            rejected |= {running[row] for row in outside}
            running = [row for row in running if row not in accepted | rejected]
    means = strata(seen, total).means(scores[running, :seen]) if running else np.array([])
    rest = sorted(range(len(running)), key=lambda i: -means[i])[: best - len(accepted)]
    return accepted | {running[i] for i in rest}, paid


def test_means_weigh_tasks_not_items() -> None:
    given = Strata(np.array([0, 0, 0, 1]), np.ones(4), np.array([3, 5]), np.array([1.0, 3.0]))
    assert given.means(np.array([[1.0, 1.0, 0.0, 1.0]]))[0] == pytest.approx(0.25 * 2 / 3 + 0.75)
    unseen = Strata(np.array([0, 0]), np.ones(2), np.array([3, 5]), np.array([1.0, 3.0]))
    assert unseen.means(np.array([[1.0, 0.0]]))[0] == 0.5  # a task without items does not count yet


def test_the_standard_error_is_that_of_sampling_without_replacement() -> None:
    """Against the spread over many draws of what is left to see."""
    draw, total, seen = np.random.default_rng(1), 60, 30
    population = draw.normal(size=total)
    means = [population[draw.permutation(total)[:seen]].mean() for _ in range(4000)]
    sample = population[draw.permutation(total)[:seen]][None, :]
    one = Strata(np.zeros(seen, dtype=np.int64), np.ones(seen), np.array([total]), np.ones(1))
    assert one.standard_errors(sample, np.zeros(1))[0] == pytest.approx(np.std(means), rel=0.3)
    assert one.standard_errors(sample, np.ones(1))[0] > one.standard_errors(sample, np.zeros(1))[0]


def test_a_whole_slice_leaves_no_doubt() -> None:
    scores = answers([0.4, 0.7], 40, 0)
    assert strata(40, 40).standard_errors(scores[:1] - scores[1:], np.ones(2))[0] == 0
    assert decide(scores, strata(40, 40), 1, RULE) == ([1], [0])


def test_nobody_stops_before_enough_is_seen_or_where_all_are_equal() -> None:
    scores = answers([0.1, 0.9], 7, 0)
    assert decide(scores, strata(7, 100), 1, RULE) == ([], [])
    equal = answers([0.5] * 4, 60, 0)
    assert decide(equal, strata(60, 100), 2, RULE) == ([], [])


def test_nobody_is_decided_before_every_task_is_seen() -> None:
    """One task of which nothing is known may reverse any order, even after the most items."""
    scores, rule = answers([0.1, 0.5, 0.9], 60, 0), RaceConfig(margin=0.0, least=8, most=48)
    one_task = Strata(np.zeros(60, dtype=np.int64), np.ones(60), np.array([100, 3]), np.array([1.0, 10.0]))
    assert not one_task.covers_tasks and decide(scores, one_task, 1, rule) == ([], [])
    both = Strata(np.arange(60) // 59, np.ones(60), np.array([100, 3]), np.array([1.0, 10.0]))
    assert both.covers_tasks and decide(scores, both, 1, rule)[1]


def test_clear_cases_stop_at_once() -> None:
    scores = answers([0.9, 0.1, 0.85, 0.2], 16, 3)
    accepted, rejected = decide(scores, strata(16, 100), 2, RULE)
    assert sorted(accepted) == [0, 2] and sorted(rejected) == [1, 3]


def test_after_the_most_items_everyone_is_decided() -> None:
    equal = answers([0.5] * 5, 48, 0)
    accepted, rejected = decide(equal, strata(48, 160), 2, RaceConfig(margin=1.0, most=48))
    assert accepted == [0, 1] and rejected == [2, 3, 4]
    assert decide(equal, strata(48, 160), 2, RaceConfig(alpha=0.1)) == ([], []), "unless certainty is asked for"
    assert decide(equal[:, :47], strata(47, 160), 2, RaceConfig(margin=1.0, most=48)) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_best_is_seldom_rejected_by_the_certain_bound(alpha: float) -> None:
    """Ten candidates that differ by little: whoever is best on the whole slice is let go in fewer than alpha races."""
    lost = 0
    for seed in range(200):
        scores = noisy(list(np.random.default_rng(seed).uniform(0.6, 0.75, 10)), 160, seed)
        best = int(np.argmax(strata(160, 160).means(scores)))
        rejected = {
            row
            for seen in range(16, 160, 16)
            for row in decide(scores[:, :seen], strata(seen, 160), 5, _sure(alpha))[1]
        }
        lost += best in rejected
    assert lost <= alpha * 200


def _sure(alpha: float) -> RaceConfig:
    return RaceConfig(alpha=alpha, least=8)


def test_a_rule_is_told_in_words() -> None:
    assert (
        str(RaceConfig(margin=0.5, most=None)) == "stops on a difference of 0.5 standard errors, after 24 items or more"
    )
    assert (
        str(RaceConfig(least=8)) == "stops on a difference of 1 standard errors, after 8 items or more, ends after 48"
    )
    assert str(RaceConfig(alpha=0.1)) == "stops with an error probability of 0.1, after 24 items or more"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_the_order_of_the_candidates_changes_nothing(order: tuple[int, ...]) -> None:
    scores = noisy([0.8, 0.3, 0.6, 0.5], 40, 5)
    accepted, rejected = decide(scores, strata(40, 200), 2, RULE)
    again = decide(scores[list(order)], strata(40, 200), 2, RULE)
    assert {order[row] for row in again[0]} == set(accepted) and {order[row] for row in again[1]} == set(rejected)


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_certain_bound_is_seldom_wrong_over_all_its_looks(alpha: float) -> None:
    """Two equally good candidates, told apart by luck: at most alpha of the races, at any of nine looks."""
    wrong = 0
    for seed in range(300):
        scores = noisy([0.5, 0.5], 160, seed)
        rule = RaceConfig(alpha=alpha, least=8)
        whole = strata(160, 160).means(scores)
        for seen in range(16, 160, 16):
            accepted, _ = decide(scores[:, :seen], strata(seen, 160), 1, rule)
            if accepted and whole[accepted[0]] < whole.max():
                wrong += 1
                break
    assert wrong <= alpha * 300


def test_the_certain_bound_is_wider_than_a_single_test_and_narrows_with_alpha() -> None:
    assert confidence_sequence_width(80, 160, 0.05) > 1.645
    assert (
        confidence_sequence_width(80, 160, 0.5)
        < confidence_sequence_width(80, 160, 0.1)
        < confidence_sequence_width(80, 160, 0.01)
    )


def test_a_race_finds_the_better_half_for_less() -> None:
    """What the margin costs and saves on 200 generations whose candidates differ by little."""
    paid, lost = 0, []
    for seed in range(200):
        means = list(np.random.default_rng(seed).uniform(0.5, 0.8, 10))
        scores = noisy(means, 160, seed)
        whole = strata(160, 160).means(scores)
        chosen, cost = race(scores, 5, RaceConfig(margin=0.5, least=24, most=None))
        assert len(chosen) == 5
        paid += cost
        lost.append(np.sort(whole)[-5:].mean() - whole[list(chosen)].mean())
    assert paid < 0.45 * 200 * 1600
    assert np.mean(lost) < 0.015


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"margin": -1}, "race.margin=-1"),
        ({"alpha": 1.0}, "race.alpha=1.0"),
        ({"least": 0}, "race.least=0"),
        ({"least": 24, "most": 16}, "race.most=16: give at least race.least=24"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(given: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(RaceConfig, given, "race")
