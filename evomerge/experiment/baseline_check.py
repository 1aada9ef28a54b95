"""Warnings about tasks on which the baselines show nothing: all of them at chance, or all with the same score."""

import math
from collections.abc import Callable, Mapping, Sequence

from evomerge.scoring import task_of
from evomerge.searching import Evaluator, Leaderboard

LEVEL = 0.95  # of the interval around a share of right answers
STEPS = 40  # of a bisection: about twelve digits
Line = tuple[str, str]  # Warning or Note, and its text
ADVICE = "look at an item of it, which `evomerge check` shows"


class BaselineCheck:
    """A callback of the search that warns once, after the baselines, before any candidate is scored.

    `chances` holds, for an item with a right choice, the probability that a guess is right.
    """

    def __init__(self, evaluator: Evaluator, chances: Mapping[str, float], print_line: Callable[[str], None]) -> None:
        self._evaluator, self._chances, self._print_line = evaluator, chances, print_line
        self.warnings: list[str] = []

    def work(self, done: int, total: int) -> None:
        """Progress within a generation is ignored."""

    def descent(self, step: int, loss: float) -> None:
        """A descent begins after the baselines."""

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Print the warnings after generation 0, which is the baselines."""
        if number:
            return
        rows = [self._evaluator.item_scores(key, "search") for key in self._evaluator.baselines.values()]
        self.warnings = find_warnings([row for row in rows if row], self._chances)
        for line in self.warnings:
            self._print_line(line)


def find_warnings(rows: Sequence[Mapping[str, float]], chances: Mapping[str, float]) -> list[str]:
    """A line for each task on which no row is better than chance, or on which all rows have the same score."""
    tasks = list(dict.fromkeys(task_of(item) for item in rows[0])) if rows else []
    found = []
    for task in tasks:
        scores = [[score for item, score in row.items() if task_of(item) == task] for row in rows]
        guesses = [chances[item] for item in rows[0] if task_of(item) == task and item in chances]
        line = _equal(scores) or (_chance(scores, guesses) if len(guesses) == len(scores[0]) else None)
        found += [f"{line[0]}: task '{task}': {line[1]}"] if line else []
    return found


def _equal(scores: Sequence[Sequence[float]]) -> Line | None:
    """The line of a task whose rows all have the same mean; None if they differ, or if there is one row."""
    means = {round(math.fsum(row) / len(row), 9) for row in scores}
    if len(means) > 1 or len(scores) < 2:
        return None
    (mean,) = means
    if mean == 1:
        return "Note", f"every baseline is right on all {len(scores[0])} items, so a merge can only lose there"
    return "Warning", f"every baseline has the same score, {mean:.3f} on {len(scores[0])} items; {ADVICE}"


def _chance(scores: Sequence[Sequence[float]], guesses: Sequence[float]) -> Line | None:
    """The line of a task on which the exact binomial interval of every row reaches down to chance."""
    count, chance = len(guesses), math.fsum(guesses) / len(guesses)
    if not all(score in (0.0, 1.0) for row in scores for score in row):
        return None
    best, worst = (int(choose(sum(row) for row in scores)) for choose in (max, min))
    low, high = binomial_interval(best, count)
    if low > chance:
        return None
    return "Warning", (
        f"no baseline is better than chance: scores from {worst / count:.3f} to {best / count:.3f} on {count} items, "
        f"the best with an exact {LEVEL:.0%} interval from {low:.3f} to {high:.3f}, and guessing gives {chance:.3f}; "
        f"{ADVICE}"
    )


def binomial_interval(hits: int, count: int) -> tuple[float, float]:
    """The exact interval of a probability (Clopper and Pearson, 1934) from `hits` of `count`."""
    tail = (1 - LEVEL) / 2
    low = 0.0 if hits == 0 else _root(lambda p: _upper_tail(hits, count, p) - tail)
    high = 1.0 if hits == count else _root(lambda p: tail - (1 - _upper_tail(hits + 1, count, p)))
    return low, high


def _upper_tail(hits: int, count: int, p: float) -> float:
    """The probability of at least `hits` of `count`."""
    logs = (math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(hits, count + 1))
    terms = (
        log + k * math.log(p) + (count - k) * math.log1p(-p)
        for k, log in zip(range(hits, count + 1), logs, strict=True)
    )
    return math.fsum(map(math.exp, terms))


def _root(rising: Callable[[float], float]) -> float:
    """The root in 0 … 1 of a function that rises from a negative to a positive value."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
