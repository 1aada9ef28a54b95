"""Disturbed searches: each is repeated until it ends, and compared with an undisturbed one."""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.faults.observed import Outcome, differences, outcome, paid_twice, problems, valid_recipe
from experiments.faults.table import Row
from experiments.faults.trial_run import (
    CRASHED,
    REFUSED,
    Ended,
    Place,
    is_running,
    load_libraries,
    new_place,
    run_child,
)

Fault = Callable[[Place], Ended]


@dataclass(frozen=True)
class Setting:
    """What disturbed searches have in common: their configuration, and what a disturbance may cost."""

    changes: tuple[tuple[str, Any], ...] = ()  # keys of the configuration and their values
    paid: int = 1  # chunks that may be paid for twice for each interruption
    may_refuse: bool = False  # whether the disturbed command may end with one line
    inject: Callable[[], object] = lambda: None  # a fault that is in every command of the search
    uncompared: tuple[str, ...] = ()  # counts of the result that depend on the moment
    edited: bool = False  # whether the ledger is edited, so that its lines do not tell what was paid for


PLAIN = Setting()


@dataclass(frozen=True)
class Undisturbed:
    """What a search without a fault has found, and the seconds that it took."""

    outcome: Outcome
    seconds: float


@dataclass
class Tally:
    """What was seen in the searches of one row."""

    searches: int = 0
    hits: int = 0  # interruptions of a running search
    paid_twice: int = 0  # chunks, in the worst search
    is_counted: bool = True  # whether the ledger tells what was paid for
    refused: int = 0
    bad: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, wrong: Sequence[str]) -> None:
        """Count a search."""
        self.searches += 1
        self.fail(wrong)

    def fail(self, wrong: Sequence[str]) -> None:
        """Count the last search as a bad one, if anything is wrong."""
        self.bad += bool(wrong)
        self.wrong += wrong

    def row(self, fault: str, where: str) -> Row:
        """The row of the table."""
        seen = [f"{self.hits} hit a running search"]
        if self.is_counted:
            seen.append(f"at most {self.paid_twice} chunks paid twice in a search")
        if self.refused:
            seen.append(f"refused with one line {self.refused} times")
        return Row(
            fault, where, self.searches, self.searches - self.bad, "; ".join(seen + self.notes), tuple(self.wrong)
        )


class Trials:
    """Injects faults into searches in the folder `root`; `kills` is how often the most frequent faults are injected."""

    def __init__(self, root: Path, kills: int, seed: int) -> None:
        self.root, self.kills, self._seed = root, kills, seed
        self.random = random.Random(seed)
        self._undisturbed: dict[object, Undisturbed] = {}

    def begin(self, name: str) -> None:
        """Random numbers that depend on the seed and this name alone."""
        self.random = random.Random(f"{self._seed} {name}")

    def some(self, share: int, least: int = 2) -> int:
        """One of `share` kills, and not fewer than `least`."""
        return max(least, self.kills // share)

    @cached_property
    def _loaded(self) -> bool:
        load_libraries(self.root)
        return True

    def new_place(self, setting: Setting = PLAIN) -> Place:
        """A new folder for a search that was not disturbed yet."""
        assert self._loaded
        return new_place(self.root, setting.changes)

    def undisturbed(self, setting: Setting = PLAIN) -> Undisturbed:
        """What a search without a fault finds, and how long it takes; RuntimeError if two of them differ."""
        key = (repr(setting.changes), setting.inject)
        if key not in self._undisturbed:
            found = []
            for _ in range(2):
                ended = run_child(place := self.new_place(setting), setting.inject)
                if ended.code:
                    raise RuntimeError(f"the undisturbed search fails: {ended}")
                found.append(Undisturbed(outcome(place, setting.uncompared), ended.seconds))
            if wrong := differences(found[0].outcome, found[1].outcome):
                raise RuntimeError(f"two undisturbed searches differ: {wrong}")
            self._undisturbed[key] = found[1]
        return self._undisturbed[key]

    def search(self, tally: Tally, faults: Sequence[Fault], setting: Setting = PLAIN) -> None:
        """Inject the faults, one for each command, then repeat the command, and compare."""
        reference, place = self.undisturbed(setting).outcome, self.new_place(setting)
        wrong, hits, ended = list[str](), 0, None
        for fault in faults:
            ended = fault(place)
            hits += ended.is_hit
            tally.refused += ended.code in REFUSED
            wrong += _unexpected(ended, place, setting)
            if ended.code == 0:
                break
        if ended is None or ended.code:
            ended = run_child(place, setting.inject)
        tally.hits, tally.is_counted = tally.hits + hits, not setting.edited
        if ended.code:
            wrong.append(f"the repeated command ends with {ended.code}: {ended.line}")
        else:
            again = None if setting.edited else setting.paid * max(1, hits)
            wrong += problems(place, outcome(place, setting.uncompared), reference, again)
            tally.paid_twice = max(tally.paid_twice, paid_twice(place))
        tally.add(wrong)

    def strike(self, pid: int, number: int, seconds: float) -> bool:
        """Send a signal to a child at a random moment within these seconds; whether it was still running."""
        time.sleep(self.random.uniform(0, seconds))
        if running := is_running(pid):
            os.kill(pid, number)
        return running


def not_run(fault: str, where: str, reason: str) -> Row:
    """The row of a fault that cannot be injected on this machine."""
    return Row(fault, where, 0, 0, f"not run: {reason}")


def _unexpected(ended: Ended, place: Place, setting: Setting) -> Iterator[str]:
    if ended.code == CRASHED or (ended.code in REFUSED and not setting.may_refuse):
        yield f"exit code {ended.code}: {ended.line}"
    if not valid_recipe(place.run):
        yield "half a recipe"
