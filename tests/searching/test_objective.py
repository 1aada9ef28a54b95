"""What a candidate is worth: scores, units, floors and losses, from task means alone."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError, RunError
from evomerge.scoring.protocol import Plan
from evomerge.searching.objective import FAILED, Fitness, Objective

WEIGHTS = {"math": 1.0, "law": 2.0, "chat": 1.0}
EXPERTS = ("mathematician", "law-firm")
BASELINES = ("base", *EXPERTS, "uniform")
REFERENCES = {
    "base": {"math": 0.2, "law": 0.4, "chat": 0.9},
    "mathematician": {"math": 0.7, "law": 0.3, "chat": 0.8},
    "law-firm": {"math": 0.1, "law": 0.8, "chat": 0.9},
    "uniform": {"math": 0.5, "law": 0.6, "chat": 0.95},
}


def objective(**settings: Any) -> Objective:
    return Objective(WEIGHTS, EXPERTS, BASELINES, **settings)


def fitness(means: dict[str, float], **settings: Any) -> Fitness:
    return objective(**settings).fitness(means, REFERENCES)


def means(math_: float, law: float, chat: float) -> dict[str, float]:
    return {"math": math_, "law": law, "chat": chat}


def test_without_settings_it_is_the_plans_score_to_the_bit() -> None:
    generator = np.random.default_rng(0)
    items = {f"{task}/{i}": float(generator.random()) for task in WEIGHTS for i in range(7)}
    plan = Plan({}, WEIGHTS)
    own = Objective(WEIGHTS)
    found = own.fitness(plan.by_task(items), {})
    assert found.score == plan.score(items) and found.violation == 0.0
    assert own.loss(found) == -found.score and not own.uses_baselines and own.loss_count == 1
    assert own.items(items, {}) == items


def test_maximise_counts_some_tasks_by_their_weights() -> None:
    assert fitness(means(0.3, 0.6, 0.1), maximise=["math", "law"]).score == pytest.approx((0.3 + 2 * 0.6) / 3)
    assert fitness(means(0.3, 0.6, 0.1), maximise=["chat"]).score == 0.1


def test_normalised_is_0_at_the_base_and_1_at_the_best_expert() -> None:
    assert fitness(REFERENCES["base"], normalise=True).score == 0.0
    best = fitness(means(0.7, 0.8, 0.9), normalise=True)
    assert best.values == pytest.approx({"math": 1.0, "law": 1.0, "chat": 0.0})
    beyond = fitness(means(0.95, 0.4, 0.95), normalise=True).values
    assert beyond["math"] == pytest.approx(1.5)
    assert beyond["chat"] == pytest.approx(0.05), "no expert gains on chat: it stays in its own unit"


@pytest.mark.parametrize(
    "settings", [{}, {"normalise": True}, {"maximise": ["law", "chat"], "normalise": True}], ids=str
)
def test_item_scores_have_the_score_as_their_mean(settings: dict[str, Any]) -> None:
    generator = np.random.default_rng(1)
    items = {f"{task}/{i}": float(generator.random()) for task in WEIGHTS for i in range(5)}
    own = objective(**settings)
    scaled = own.items(items, REFERENCES)
    score = own.fitness(Plan({}, WEIGHTS).by_task(items), REFERENCES).score
    assert Plan({}, own.weights).score(scaled) == pytest.approx(score)
    assert {item.partition("/")[0] for item in scaled} == set(own.tasks)


@pytest.mark.parametrize(
    ("floor", "level"),
    [
        (0.45, 0.45),
        ("0.45", 0.45),
        ("base", 0.4),
        ("best_expert", 0.8),
        ("best_expert - 0.01", 0.79),
        ("uniform + 0.05", 0.65),
        ("law-firm - 0.5", 0.3),
        (-1, -1.0),
    ],
)
def test_floors(floor: Any, level: float) -> None:
    keep = {"law": floor}
    assert fitness(means(0.0, level, 0.0), keep=keep).violation == 0.0
    assert fitness(means(0.0, level + 0.1, 0.0), keep=keep).violation == 0.0
    assert fitness(means(0.0, level - 0.1, 0.0), keep=keep).violation == pytest.approx(0.1)


def test_breaches_add_up_over_the_tasks_that_must_be_kept() -> None:
    keep = {"math": 0.5, "chat": "base - 0.1"}
    assert fitness(means(0.2, 0.0, 0.7), keep=keep).violation == pytest.approx(0.3 + 0.1)


def rules(one: Fitness, other: Fitness) -> bool:
    """Deb's three rules, word by word: whether `one` is better."""
    if one.violation == 0 and other.violation == 0:
        return one.score > other.score
    if one.violation == 0 or other.violation == 0:
        return one.violation == 0
    return one.violation < other.violation


def test_losses_and_ranks_follow_debs_rules() -> None:
    own = objective(keep={"law": "best_expert - 0.2"})
    generator = np.random.default_rng(2)
    # Some scores far from 0 … 1, as of log-likelihoods.
    found = [own.fitness(means(*row), REFERENCES) for row in (generator.random((40, 3)) * [[50, 1, -80]]).tolist()]
    assert {w.violation > 0 for w in found} == {True, False}
    for one, other in itertools.permutations(found, 2):
        if rules(one, other):
            assert own.loss(one) < own.loss(other)
            assert one.violation != other.violation or one.rank > other.rank
            assert one.rank > other.rank
    assert max(own.loss(w) for w in found) < own.loss(FAILED) == math.inf


def test_a_front_has_a_loss_for_each_task() -> None:
    own = objective(front=True, maximise=["law", "math"])
    found = own.fitness(means(0.3, 0.6, 0.0), REFERENCES)
    assert own.loss_count == 2 and own.loss(found) == (-0.6, -0.3)
    assert own.loss(FAILED) == (math.inf, math.inf)
    assert found.score == pytest.approx((0.3 + 2 * 0.6) / 3), "one number is still needed to sort a table"


def test_in_a_front_whoever_breaks_a_floor_is_dominated_by_whoever_keeps_it() -> None:
    own = objective(front=True, maximise=["math", "chat"], keep={"law": 0.5})
    kept, broken, worse = (
        own.loss(own.fitness(means(m, law, 0.1), {})) for m, law in ((0.0, 0.5), (1.0, 0.4), (1.0, 0.2))
    )
    assert all(a < b < c for a, b, c in zip(kept, broken, worse, strict=True))


def test_the_order_of_tasks_changes_nothing() -> None:
    turned = Objective(dict(reversed(WEIGHTS.items())), EXPERTS, BASELINES, normalise=True, keep={"law": "base"})
    own = objective(normalise=True, keep={"law": "base"})
    given = means(0.4, 0.3, 0.2)
    one, two = own.fitness(given, REFERENCES), turned.fitness(given, REFERENCES)
    assert (one.score, one.violation) == pytest.approx((two.score, two.violation))


def test_tasks_that_were_not_scored_do_not_count() -> None:
    assert fitness({"math": 0.5}, keep={"law": 0.9}).violation == 0.0
    assert fitness({"math": 0.5}).score == 0.5
    assert fitness({}) is FAILED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"maximise": ["maths"]}, r"objective\.maximise: maths is not one of.*did you mean 'math'"),
        ({"maximise": []}, r"objective\.maximise is empty"),
        ({"maximise": ["law"], "front": True}, r"objective\.front: law alone"),
        ({"keep": {"lw": 0.5}}, r"objective\.keep: lw is not one of.*did you mean 'law'"),
        ({"keep": {"law": "best_exprt"}}, r"objective\.keep\.law=best_exprt.*did you mean 'best_expert'"),
        (
            {"keep": {"law": "best_expert - a lot"}},
            r"objective\.keep\.law=.*'a lot' is no number.*`best_expert - 0.01`",
        ),
        ({"keep": {"law": "nan"}}, r"objective\.keep\.law=nan"),
        ({"keep": {"law": "best_expert-0.01"}}, r"objective\.keep\.law=.*with `\+ number` or `- number`"),
    ],
)
def test_mistakes_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        objective(**settings)


def test_a_baseline_that_failed_is_named() -> None:
    without = {label: found for label, found in REFERENCES.items() if label not in EXPERTS}
    with pytest.raises(RunError, match="no expert could be scored on law"):
        objective(keep={"law": "best_expert"}).fitness(means(1.0, 1.0, 1.0), without)
    with pytest.raises(RunError, match="uniform could not be scored on law"):
        objective(keep={"law": "uniform"}).fitness(means(1.0, 1.0, 1.0), {})
    one = {"base": REFERENCES["base"], "law-firm": REFERENCES["law-firm"]}
    assert objective(keep={"law": "best_expert"}).fitness(means(0.0, 0.8, 0.0), one).violation == 0.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "mean of math, law, chat"),
        (
            {"maximise": ["law", "chat"], "normalise": True},
            "mean of law, chat, from 0 for the base to 1 for the best expert",
        ),
        (
            {"front": True, "keep": {"law": "best_expert - 0.01", "chat": "base", "math": 0.5}},
            "math and law and chat, a front; keep law ≥ best_expert − 0.01, chat ≥ base, math ≥ 0.5",
        ),
    ],
    ids=str,
)
def test_it_says_what_it_does(settings: dict[str, Any], words: str) -> None:
    assert str(objective(**settings)) == words


def test_losses_weigh_as_much_as_the_means_that_they_stand_for() -> None:
    assert objective().loss_weights(REFERENCES) == WEIGHTS
    assert objective(maximise=["math", "law"]).loss_weights(REFERENCES) == {"math": 1.0, "law": 2.0}
    units = objective(normalise=True).loss_weights(REFERENCES)
    assert units["math"] == pytest.approx(1.0 / 0.5) and units["law"] == pytest.approx(2.0 / 0.4)
