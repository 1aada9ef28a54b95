"""Estimates for stopped candidates: what they are in simple cases, and their bias and error over many generations."""

import numpy as np
import pytest

from evomerge.searching.estimates import Control
from evomerge.searching.race import Matrix, Strata

SEEN, TOTAL = 48, 160


def one_task(seen: int = SEEN, total: int = TOTAL) -> Strata:
    return Strata(np.zeros(seen, dtype=np.int64), np.ones(seen), np.array([total]), np.ones(1))


def generation(seed: int, strength: float, shared: float, candidates: int = 8) -> Matrix:
    draw = np.random.default_rng(seed)
    own = draw.standard_normal((candidates, TOTAL))
    difficulty = shared**0.5 * draw.standard_normal(TOTAL) + (1 - shared) ** 0.5 * own
    return strength * draw.standard_normal((candidates, 1)) + difficulty


def errors(strength: float, shared: float, generations: int = 400) -> Matrix:
    """[generations × candidates, 3]: errors of the seen mean, of the difference to the leader, of the control."""
    found = []
    for seed in range(generations):
        scores = generation(seed, strength, shared)
        seen, whole = one_task().means(scores[:, :SEEN]), scores.mean(1)
        leader = int(np.argmax(seen))
        control = Control.fit(scores[:, :SEEN], one_task(), 1)
        estimates = control.estimates(seen, [leader], whole[[leader]])
        rows = np.stack([seen, seen + whole[leader] - seen[leader], estimates]) - whole
        found.append(np.delete(rows, leader, 1).T)
    return np.concatenate(found)


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("shared", [0.2, 0.6, 0.9])
def test_the_control_has_less_error_than_the_seen_items_and_about_their_bias(strength: float, shared: float) -> None:
    found = errors(strength, shared)
    plain, leader, control = np.sqrt((found**2).mean(0))
    biases = np.abs(found.mean(0))
    assert control < (1.0 if shared == 0.2 else 0.85) * plain and control < leader
    assert biases[2] < max(biases[0], 0.2 * plain), "a fifth of the error is little"
    if strength == 0.0:
        assert biases[2] < 0.4 * biases[1]


def test_nothing_is_corrected_where_no_difficulty_is_shared() -> None:
    found = errors(0.1, 0.0)
    plain, _, control = np.sqrt((found**2).mean(0))
    assert control < 1.01 * plain


def test_difficulty_that_is_wholly_shared_is_wholly_corrected() -> None:
    difficulty = np.random.default_rng(0).standard_normal(TOTAL)
    scores = np.array([0.3, 0.1, 0.0, -0.2])[:, None] + difficulty
    means = one_task().means(scores[:, :SEEN])
    control = Control.fit(scores[:, :SEEN], one_task(), 1)
    assert control.slope == pytest.approx(1.0) and control.luck == pytest.approx(0.0, abs=1e-9)
    assert control.estimates(means, [0], scores[:1].mean(1)) == pytest.approx(scores.mean(1))


def test_equal_scores_have_equal_estimates_and_no_variance_is_no_error() -> None:
    scores = np.ones((4, SEEN))
    control = Control.fit(scores, one_task(), 1)
    assert control.slope == 0.0
    assert control.estimates(one_task().means(scores), [2], np.array([0.9])).tolist() == [1.0] * 4


def test_error_variances_are_those_of_sampling_without_replacement() -> None:
    """Against the variance over many draws of two tasks with other sizes, weights and spreads."""
    draw = np.random.default_rng(3)
    tasks, shares = [draw.normal(size=40), 3 * draw.normal(size=10)], np.array([0.25, 0.75])
    strata = Strata(np.repeat([0, 1], [12, 4]), np.ones(16), np.array([40, 10]), np.array([1.0, 3.0]))
    picks = (np.concatenate([draw.permutation(tasks[0])[:12], draw.permutation(tasks[1])[:4]]) for _ in range(4000))
    samples = np.array(list(picks))
    whole = sum(share * task.mean() for share, task in zip(shares, tasks, strict=True))
    assert strata.error_variances(samples).mean() == pytest.approx(
        ((strata.means(samples) - whole) ** 2).mean(), rel=0.1
    )


def test_a_task_of_which_one_item_is_seen_has_the_variance_of_the_others() -> None:
    row = np.array([[0.0, 1.0, 0.0, 1.0, 5.0]])
    strata = Strata(np.array([0, 0, 0, 0, 1]), np.ones(5), np.array([8, 2]), np.ones(2))
    variance = 1 / 3
    assert strata.error_variances(row)[0] == pytest.approx(variance * (0.25 * 0.5 / 4 + 0.25 * 0.5 / 1))
    alone = Strata(np.array([0, 1]), np.ones(2), np.array([8, 2]), np.ones(2))
    assert alone.error_variances(row[:, :2])[0] == 0.0
