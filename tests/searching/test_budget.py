"""What is left of a budget, and what is said of it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.ledger.ledger import Ledger
from evomerge.schema import build
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.deadline import Deadline
from evomerge.searching.race import RaceConfig
from evomerge.searching.stages import Candidate
from tests.searching.test_generation import evaluator
from tests.toys import Run, ToyPool, toy_space


class Clock:
    """A clock that only moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "trials.jsonl")
    yield made
    made.ledger.close()


def remaining(run: Run, reserve: int = 0, **budget: Any) -> RemainingBudget:
    return RemainingBudget(BudgetConfig(**budget), run.evaluator, run.ledger, reserve)


def unknown(count: int = 1) -> list[Candidate]:
    """Candidates that the ledger does not know."""
    points = np.random.default_rng(1).uniform(size=(count, 2))
    return [Candidate.of(f"1/{place}", toy_space().decode(point)) for place, point in enumerate(points)]


def paid(run: Run, items: int, seconds: float, clock: Clock) -> None:
    """As if so many items had been scored in so many seconds."""
    run.evaluator.scored_items += items
    run.evaluator.scoring_seconds += seconds
    clock.now += seconds


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"evaluations": 0}, "budget.evaluations=0"),
        ({"items": 0}, "budget.items=0"),
        ({"hours": 0}, "budget.hours=0"),
        ({"evaluations": None}, "all null"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(given: Mapping[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(BudgetConfig, given, "budget")


def test_a_budget_says_what_it_comes_to() -> None:
    assert str(BudgetConfig(evaluations=5, items=70, hours=0.5)) == "5 evaluations, or 70 items, or 0.5 hours"
    assert BudgetConfig(evaluations=5).describe_cost(6) == "at most 30 items of the search slice"
    assert BudgetConfig(evaluations=5, items=30).describe_cost(6) == BudgetConfig(evaluations=5).describe_cost(6)
    assert (
        BudgetConfig(evaluations=100, items=70).describe_cost(6)
        == "at least 11 candidates, more if races stop some early"
    )
    assert BudgetConfig(evaluations=None, items=70).describe_cost(6) == BudgetConfig(
        evaluations=100, items=70
    ).describe_cost(6)
    assert BudgetConfig(evaluations=None, hours=2).describe_cost(6) == "as many candidates as time allows"
    assert str(BudgetConfig(evaluations=None, hours=2)) == "2 hours"


def test_items_are_counted_once_and_the_baselines_not(run: Run) -> None:
    left = remaining(run, evaluations=100, items=10)
    run.evaluator.baselines = {"base": "b"}
    left.record(3, {"k": 6, "b": 6, "l": 3})
    left.record(3, {"k": 6, "l": 3})
    assert left.next_generation_limit(2) == 94
    left.record(1, {"l": 6})
    assert left.next_generation_limit(3) == 0, "12 items of 10"


def test_without_a_number_of_evaluations_the_others_end_the_search(run: Run, clock: Clock) -> None:
    left = remaining(run, evaluations=None, items=60, hours=1.0)
    assert left.next_generation_limit(0) > 10**6
    paid(run, 12, 24.0, clock)
    left.record(4, dict.fromkeys("klmn", 6))
    assert left.seconds_left() == pytest.approx(2 * (60 - 24)) and left.next_generation_limit(1) > 10**6
    left.record(6, dict.fromkeys("opqrst", 6))
    assert left.next_generation_limit(2) == 0


RACE = RaceConfig(least=1, most=2)  # of six items


@pytest.mark.parametrize(
    ("budget", "dimensions", "most"),
    [
        ({"evaluations": 100}, 2, 2),  # candidates alone say nothing of items
        ({"items": 16}, 2, 2),  # one item for each of 16 candidates
        ({"items": 64}, 2, 4),
        ({"items": 64}, 1, 6),  # the whole slice at most
        ({"items": 64, "evaluations": 12}, 2, 5),  # no more candidates are asked for
        ({"items": 10**6, "evaluations": None}, 2, 6),
        ({"hours": 1.0}, 2, 2),  # nothing has been scored: the pace is not known
    ],
)
def test_a_race_is_as_wide_as_the_budget_pays_for(run: Run, budget: dict[str, Any], dimensions: int, most: int) -> None:
    assert remaining(run, **budget).widen_race(RACE, dimensions).most == most
    assert run.ledger.race_limit == most


def test_time_pays_for_items_at_the_pace_of_the_baselines(run: Run, clock: Clock) -> None:
    left = remaining(run, reserve=20, hours=1.0)
    paid(run, 12, 360.0, clock)  # 30 s an item: 108 in what is left of the hour, 20 of them for what follows
    assert left.widen_race(RACE, 2).most == 88 // 16


def test_how_wide_a_race_is_stays_when_the_search_is_resumed_with_more(run: Run) -> None:
    assert remaining(run, items=64).widen_race(RACE, 2).most == 4
    run.ledger.close()
    run.ledger = Ledger(run.ledger.path, run.ledger.header)
    assert remaining(run, items=6400).widen_race(RACE, 2).most == 4
    assert run.ledger.path.read_text().count('"most"') == 1


@pytest.mark.parametrize("race", [{"widen": False}, {"alpha": 0.1}, {"most": None}])
def test_a_race_that_is_not_to_be_widened_is_not(run: Run, race: dict[str, Any]) -> None:
    given = replace(RACE, **race)
    assert remaining(run, items=6400).widen_race(given, 2) == given and run.ledger.race_limit is None


def test_only_items_of_tasks_that_count_widen_a_race(tmp_path: Path) -> None:
    made, ledger = evaluator(tmp_path / "a", ToyPool(), maximise=["a"])
    left = RemainingBudget(
        BudgetConfig(items=1600), made, ledger
    )  # 100 for each of 16 candidates, half of them of task a
    assert left.widen_race(replace(RACE, most=10), 2).most == 48, "the slice has no more of them"
    assert RemainingBudget(BudgetConfig(items=640), made, ledger)._affordable_items(10, 2) == 20
    ledger.close()


def test_a_search_that_finds_nothing_new_ends(run: Run) -> None:
    left = remaining(run, evaluations=None, items=1000)
    left.record(1, {"k": 6})
    for number in range(1, 20):
        assert left.next_generation_limit(number) > 0
        left.record(1, {"k": 6})
    assert left.next_generation_limit(20) > 0, "the first of them was new"
    left.record(1, {"k": 6})
    assert left.next_generation_limit(21) == 0
    assert remaining(run, evaluations=30, items=1000).next_generation_limit(21) == 30, (
        "where candidates are counted they end it"
    )


def test_the_first_generation_begins_only_if_all_its_candidates_can_end_in_time(run: Run, clock: Clock) -> None:
    left = remaining(run, reserve=2, hours=0.021)  # 70.3 s, without the margins
    paid(run, 6, 21.0, clock)  # 3.5 s an item
    assert left.begins_in_time(0, unknown(2)), "12 items take 42 s, what follows 7 of the 49.3 that are left"
    clock.now += 1
    assert not left.begins_in_time(0, unknown(2)) and left.next_generation_limit(0) == 0
    left.record(5, {})
    assert left.begins_in_time(1, unknown(3)), "later ones are as costly as the last one, or a slice: 21 s"


def test_a_generation_that_was_begun_is_finished(run: Run, clock: Clock) -> None:
    left = remaining(run, hours=0.01)
    begun = unknown(2)
    run.evaluator.evaluate(begun, "search")
    clock.now = 100.0
    assert left.begins_in_time(3, begun) and not left.begins_in_time(3, unknown(3))


def test_hours_count_from_the_beginning_of_the_command(run: Run, clock: Clock) -> None:
    clock.now = 100.0
    deadline = Deadline(0.05, started=10.0)  # until 190 s, without margins of 12.6 s
    left = RemainingBudget(BudgetConfig(hours=0.05), run.evaluator, run.ledger, deadline=deadline)
    paid(run, 12, 24.0, clock)
    assert left.begins_in_time(0, unknown())
    clock.now = 175.0
    assert not left.begins_in_time(1, unknown())


def test_hours_count_all_commands_of_a_run(run: Run, clock: Clock) -> None:
    path = run.ledger.path.with_name("timed.jsonl")
    for seconds in (50.0, 70.0):
        ledger = Ledger(path, {}, started=clock.now)
        clock.now += seconds
        ledger.append_race_limit(7)
        ledger.close()
    found = Ledger(path, {}, started=clock.now)
    assert sum(found.elapsed.values()) == 120.0
    assert Deadline(0.05, clock.now, 120.0).left() == pytest.approx(180 * 0.93 - 120)
    found.close()


def test_nothing_is_foreseen_before_anything_was_scored(run: Run) -> None:
    assert remaining(run, evaluations=10).seconds_left() is None


def test_the_end_is_foreseen_at_the_pace_so_far(run: Run, clock: Clock) -> None:
    left = remaining(run, reserve=20, evaluations=10)
    paid(run, 12, 24.0, clock)  # 2 s an item
    assert left.seconds_left() == pytest.approx(2 * (10 * 6 + 20)), (
        "every candidate the whole slice, until it is known better"
    )
    left.record(4, {"k": 3, "l": 3, "m": 3, "n": 3})
    assert left.seconds_left() == pytest.approx(2 * (6 * 3 + 20))


def test_items_within_a_generation_and_after_the_search_are_subtracted(run: Run, clock: Clock) -> None:
    left = remaining(run, reserve=20, evaluations=10)
    paid(run, 12, 24.0, clock)
    left.next_generation_limit(0)
    paid(run, 12, 24.0, clock)
    assert left.seconds_left() == pytest.approx(2 * (60 - 12 + 20))
    left.record(4, dict.fromkeys("klmn", 3))
    assert left.seconds_left() == pytest.approx(2 * (6 * 3 + 20))
    left.end_search()
    assert left.seconds_left() == pytest.approx(2 * 20)
    paid(run, 15, 30.0, clock)
    assert left.seconds_left() == pytest.approx(2 * 5)
    paid(run, 15, 30.0, clock)
    assert left.seconds_left() == 0.0


def test_whatever_ends_first_is_foreseen(run: Run, clock: Clock) -> None:
    left = remaining(run, evaluations=1000, items=60, hours=1.0)
    paid(run, 12, 24.0, clock)
    left.record(4, dict.fromkeys("klmn", 6))
    assert left.seconds_left() == pytest.approx(2 * (60 - 24))
    clock.now = 3500.0
    assert left.seconds_left() == pytest.approx(18.0), "2 % of the hour and 10 seconds are a margin"


def test_a_generation_begins_only_if_the_dearest_of_the_last_ones_fits(run: Run, clock: Clock) -> None:
    left = remaining(run, reserve=10, evaluations=1000, hours=0.1)  # 360 s
    paid(run, 10, 10.0, clock)
    left.record(1, {"k": 300})
    for number in range(2):
        left.record(1, {f"{number}": 6})
    assert left.begins_in_time(3, unknown()), "300 + 10 items in 342 s"
    clock.now += 60
    assert not left.begins_in_time(4, unknown()) and run.ledger.stops[-1]["after"] == 4
    clock.now = 10.0
    assert left.next_generation_limit(4) == 0, "what was decided stays decided"
    left.record(1, {"x": 6})
    assert left.begins_in_time(5, unknown())


def test_a_time_that_ran_out_is_known_when_the_ledger_is_opened_again(run: Run, clock: Clock) -> None:
    left = remaining(run, evaluations=1000, hours=0.1)
    paid(run, 10, 400.0, clock)
    assert not left.begins_in_time(7, unknown())
    run.ledger.close()
    run.ledger, clock.now = Ledger(run.ledger.path, run.ledger.header), 0.0
    again = remaining(run, evaluations=1000, hours=0.1)
    assert again.next_generation_limit(6) > 0 and again.next_generation_limit(7) == 0
    assert remaining(run, evaluations=1000, hours=0.2).next_generation_limit(7) > 0, "another budget has another end"
