"""Lengths of answers in the objective: names, weights, units, bounds, and their place in races and ledgers."""

from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.ledger.records import Trial
from evomerge.scoring.protocol import Plan
from evomerge.searching.generation import uses_races
from evomerge.searching.objective import Objective
from evomerge.searching.race import RaceConfig

WEIGHTS = {"math": 1.0, "chat": 3.0, "mc": 1.0}
SCORES = {"math/0": 1.0, "math/1": 0.0, "chat/0": 0.5, "mc/0": 1.0}
LENGTHS = {"math/0": 10.0, "math/1": 30.0, "chat/0": 100.0}
PLAN = Plan({}, WEIGHTS, generating=("math", "chat"))
REFERENCES = {
    "base": {"math": 0.2, "chat": 0.4, "mc": 0.3, "math.tokens": -25.0, "chat.tokens": -90.0, "tokens": -70.0},
    "one": {"math": 0.7, "chat": 0.4, "mc": 0.3, "math.tokens": -15.0, "chat.tokens": -90.0, "tokens": -80.0},
}
MEANS = PLAN.measures(SCORES, LENGTHS)


def objective(generating: tuple[str, ...] = ("math", "chat"), **settings: Any) -> Objective:
    return Objective(WEIGHTS, ("one",), ("base", "one"), generating, **settings)


def test_lengths_are_negated_means_and_tokens_is_that_of_all_answers() -> None:
    assert {
        "math": 0.5,
        "chat": 0.5,
        "mc": 1.0,
        "math.tokens": -20.0,
        "chat.tokens": -100.0,
        "tokens": pytest.approx(-(20 + 3 * 100) / 4),
    } == MEANS
    assert PLAN.measures(SCORES, {}) == PLAN.by_task(SCORES)


def test_without_settings_lengths_do_not_count() -> None:
    own = objective()
    assert own.fitness(MEANS, REFERENCES).score == Objective(WEIGHTS).fitness(PLAN.by_task(SCORES), {}).score
    assert own.items(SCORES, REFERENCES, LENGTHS) == SCORES and own.lengths == ()


@pytest.mark.parametrize(
    ("keep", "violation"),
    [
        ({"math.tokens": "base"}, 0.0),
        ({"math.tokens": "one"}, 5 / 15),
        ({"math.tokens": "best_expert + 5"}, 0.0),
        ({"math.tokens": "base - 10"}, 5 / 15),
        ({"math.tokens": 20}, 0.0),
        ({"math.tokens": 16}, 4 / 16),
        ({"chat.tokens": "base"}, 10 / 90),
        ({"tokens": "base"}, 10 / 70),
        ({"tokens": 80}, 0.0),
        ({"tokens": 40, "math": 0.6}, 40 / 40 + 0.1),
    ],
    ids=str,
)
def test_bounds(keep: dict[str, Any], violation: float) -> None:
    own = objective(keep=keep)
    assert own.fitness(MEANS, REFERENCES).violation == pytest.approx(violation)
    assert not own.single_score and not uses_races(own, RaceConfig())


def test_tokens_names_the_length_of_a_single_task() -> None:
    own = objective(("chat",), keep={"tokens": "base"})
    assert own.lengths == ("chat.tokens",) and own.floors(REFERENCES) == {"chat.tokens": -90.0}
    assert str(own) == "mean of math, chat, mc; keep chat.tokens ≤ base"
    with pytest.raises(ConfigError, match=r"several tasks generate answers; name math\.tokens or chat\.tokens"):
        objective(front=True, maximise=["math", "tokens"])


def test_a_weighted_term_is_in_the_score_and_in_each_item() -> None:
    own = objective(maximise={"math": 1, "math.tokens": 0.002, "mc": 1})
    wanted = (0.5 - 0.002 * 20 + 1.0) / 2.002
    assert own.fitness(MEANS, {}).score == pytest.approx(wanted)
    items = own.items(SCORES, {}, LENGTHS)
    assert items == {
        "math/0": pytest.approx((1.0 - 0.02) / 1.002),
        "math/1": pytest.approx((0.0 - 0.06) / 1.002),
        "mc/0": 1.0,
    }
    assert own.weights == {"math": pytest.approx(1.002), "mc": 1}
    assert Plan({}, own.weights).score(items) == pytest.approx(wanted)
    assert uses_races(own, RaceConfig()), "a weighted mean of items can be raced"
    assert str(own) == "mean of 1 × math, 0.002 × math.tokens, 1 × mc"
    assert own.loss_weights({}) == {"math": 1, "mc": 1}, "a length has no slope"


def test_normalised_lengths_are_in_units_of_the_shortest_experts_gain() -> None:
    own = objective(maximise=["math", "math.tokens"], normalise=True)
    found = own.fitness(MEANS, REFERENCES)
    assert found.values == pytest.approx({"math": 0.6, "math.tokens": 0.5})
    assert found.score == pytest.approx(0.55)
    items = own.items(SCORES, REFERENCES, LENGTHS)
    assert Plan({}, own.weights).score(items) == pytest.approx(0.55)


def test_in_a_front_the_length_is_an_objective_but_not_in_the_score() -> None:
    own = objective(front=True, maximise=["math", "math.tokens"])
    found = own.fitness(MEANS, REFERENCES)
    assert own.loss_count == 2 and own.loss(found) == (-0.5, 20.0) and found.score == 0.5
    assert own.items(SCORES, REFERENCES, LENGTHS) == {"math/0": 1.0, "math/1": 0.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"maximise": ["math", "math.tokens"]},
            r"math\.tokens counts tokens; give weights, as in \{TASK: 1, math\.tok",
        ),
        ({"keep": {"mc.tokens": "base"}}, r"keep: mc generates answers|keep: mc .* no length 'mc\.tokens'"),
        ({"keep": {"math.token": "base"}}, r"did you mean 'math\.tokens'"),
        ({"keep": {"tokens": "bas"}}, r"objective\.keep\.tokens=bas.*did you mean 'base'"),
    ],
)
def test_mistakes_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        objective(**settings)


def test_without_answers_there_is_no_length() -> None:
    with pytest.raises(ConfigError, match="no task generates answers, so there is no length 'tokens'"):
        objective((), keep={"tokens": "base"})


def test_a_task_of_that_name_goes_before() -> None:
    own = Objective({"chat": 1.0, "chat.tokens": 1.0, "tokens": 1.0}, generating=("chat",), keep={"tokens": 0.5})
    assert own.lengths == () and own.fitness({"chat": 1.0, "chat.tokens": 0.5, "tokens": 0.0}, {}).violation == 0.5


def test_lengths_follow_their_items_into_other_chunks() -> None:
    trial = Trial({"search/0": [0.1, 0.2], "search/1": [0.3]}, lengths={"search/0": [1.0, None], "search/1": [3.0]})
    old, new = {"search/0": ["t/0", "t/1"], "search/1": ["t/2"]}, {"search/x/0": ["t/2", "t/0"], "search/x/1": ["t/1"]}
    trial.regroup(old, new)
    assert trial.lengths["search/x/0"] == [3.0, 1.0] and trial.lengths["search/x/1"] == [None]
