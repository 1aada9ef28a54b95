"""What is left of a budget, and what is said of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge.budget import Allowance, Budget
from evomerge.errors import ConfigError
from evomerge.ledger import Ledger
from tests.toys import Run


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


def allowance(run: Run, reserve: int = 0, **budget: Any) -> Allowance:
    return Allowance(Budget(**budget), run.evaluator, run.ledger, reserve)


def paid(run: Run, items: int, seconds: float, clock: Clock) -> None:
    """As if so many items had been scored in so many seconds."""
    run.evaluator.scored += items
    run.evaluator.busy += seconds
    clock.now += seconds


@pytest.mark.parametrize(
    ("given", "text"),
    [({"evaluations": 0}, "budget.evaluations=0"), ({"items": 0}, "budget.items=0"), ({"hours": 0}, "budget.hours=0")],
)
def test_a_budget_that_cannot_be_meant_is_refused(given: Mapping[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Budget(**given)


def test_a_budget_says_what_it_comes_to() -> None:
    assert str(Budget(evaluations=5, items=70, hours=0.5)) == "5 evaluations, or 70 items, or 0.5 hours"
    assert Budget(evaluations=5).most(6) == "at most 30 items of the search slice"
    assert Budget(evaluations=5, items=30).most(6) == Budget(evaluations=5).most(6)
    assert Budget(evaluations=100, items=70).most(6) == "at least 11 candidates, more where races stop some early"


def test_items_are_counted_once_and_the_baselines_not(run: Run) -> None:
    left = allowance(run, evaluations=100, items=10)
    run.evaluator.baselines = {"base": "b"}
    left.spend(3, {"k": 6, "b": 6, "l": 3})
    left.spend(3, {"k": 6, "l": 3})
    assert left.room(2) == 94
    left.spend(1, {"l": 6})
    assert left.room(3) == 0, "12 items of 10"


def test_nothing_is_foreseen_before_anything_was_scored(run: Run) -> None:
    assert allowance(run, evaluations=10).left() is None


def test_the_end_is_foreseen_at_the_pace_so_far(run: Run, clock: Clock) -> None:
    left = allowance(run, reserve=20, evaluations=10)
    paid(run, 12, 24.0, clock)  # 2 s an item
    assert left.left() == pytest.approx(2 * (10 * 6 + 20)), "every candidate the whole slice, until it is known better"
    left.spend(4, {"k": 3, "l": 3, "m": 3, "n": 3})
    assert left.left() == pytest.approx(2 * (6 * 3 + 20))


def test_whatever_ends_first_is_foreseen(run: Run, clock: Clock) -> None:
    left = allowance(run, evaluations=1000, items=60, hours=1.0)
    paid(run, 12, 24.0, clock)
    left.spend(4, dict.fromkeys("klmn", 6))
    assert left.left() == pytest.approx(2 * (60 - 24))
    clock.now = 3590.0
    assert left.left() == pytest.approx(10.0)


def test_a_generation_begins_only_if_the_dearest_of_the_last_ones_fits(run: Run, clock: Clock) -> None:
    left = allowance(run, reserve=10, evaluations=1000, hours=0.1)  # 360 s
    paid(run, 10, 10.0, clock)
    left.spend(1, {"k": 300})
    for number in range(2):
        left.spend(1, {f"{number}": 6})
    assert left.room(3) > 0, "300 + 10 items in 350 s"
    clock.now += 60
    assert left.room(4) == 0 and run.ledger.stops[-1]["after"] == 4
    clock.now = 10.0
    assert left.room(4) == 0, "what was decided stays decided"
    left.spend(1, {"x": 6})
    assert left.room(5) > 0


def test_a_time_that_ran_out_is_known_when_the_ledger_is_opened_again(run: Run, clock: Clock) -> None:
    left = allowance(run, evaluations=1000, hours=0.1)
    paid(run, 10, 400.0, clock)
    assert left.room(7) == 0
    run.ledger.close()
    run.ledger, clock.now = Ledger(run.ledger.path, run.ledger.header), 0.0
    again = allowance(run, evaluations=1000, hours=0.1)
    assert again.room(6) > 0 and again.room(7) == 0
    assert allowance(run, evaluations=1000, hours=0.2).room(7) > 0, "another budget has another end"
