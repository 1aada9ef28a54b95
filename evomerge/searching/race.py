"""The stopping rule of a generation: who need not be scored further, a pure function of the scores so far.

An evolution strategy only asks which μ candidates of a generation are its best, so a race over items may stop whoever
is clearly among them or clearly not (Heidrich-Meisner & Igel, ICML 2009). Candidates are compared, paired, on the
items that all of them have seen, with their neighbour across the border between rank μ and μ + 1. Standard errors are
those of the mean over this very slice, which shrink to nothing as less of it is unseen (Cochran, Sampling Techniques,
1977, ch. 5: strata without replacement). The certain bound holds at all looks together: an asymptotic confidence
sequence (Waudby-Smith et al., Annals of Statistics 52, 2024).
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError
from evomerge.schema import Count, OneOf, Range

Matrix = NDArray[np.float64]  # [candidates, items]
ORDERS = ("rotating", "fixed", "informative")
DECIMALS = 12  # of means: two that only rounding tells apart are equal


@dataclass(frozen=True, kw_only=True)
class RaceConfig:
    """When a candidate may stop before it has seen its whole slice.

    `least` items are seen before anyone stops. `margin` is by how many standard errors two candidates must differ to be
    told apart; after `most` items whatever is undecided is as good as equal, and only the leader goes on. `alpha` asks
    for certainty instead of both: the chance that a pair is ever told apart wrongly. `widen` raises `most` where items
    or hours of the budget pay for more. `items` are seen in another order in each generation, in a fixed one, or those
    first that baselines disagree on.
    """

    enabled: bool = True
    margin: Annotated[float, Range(0, 1e6)] = 1.0
    alpha: Annotated[float, Range(0, 1, without=(0, 1))] | None = None
    least: Count = 24
    most: Count | None = 48
    widen: bool = True
    items: Annotated[str, OneOf(ORDERS)] = "rotating"

    def __post_init__(self) -> None:
        if self.alpha is None and self.most is not None and self.most < self.least:
            raise ConfigError(f"race.most={self.most}: give at least race.least={self.least}, or null")

    def __str__(self) -> str:
        """In words, for whoever checks a configuration."""
        kind = "" if self.items == "rotating" else f"{self.items} "
        if self.alpha is not None:
            return f"told apart with a chance of error of {self.alpha:g}, after {self.least} {kind}items or more"
        last = "or more" if self.most is None else f"and for good after {self.most}"
        return f"told apart by {self.margin:g} standard errors, after {self.least} {kind}items {last}"

    @property
    def widens(self) -> bool:
        """Whether a budget may raise `most`."""
        return self.widen and self.alpha is None and self.most is not None

    def ended(self, seen: int) -> bool:
        """Whether everybody has seen enough."""
        return self.alpha is None and self.most is not None and seen >= self.most

    def width(self, seen: int, total: int) -> float:
        """Standard errors that a difference on so many items of a slice must exceed."""
        return self.margin if self.alpha is None else certain_width(seen, total, self.alpha)


@dataclass(frozen=True)
class Strata:
    """The items that a race has seen: each one's task as a number and how many items of the slice it stands for.

    `totals` are the items that the slice has of each task, `weights` those of the tasks in the score.
    """

    tasks: NDArray[np.int64]
    stands_for: Matrix
    totals: NDArray[np.int64]
    weights: Matrix

    def means(self, scores: Matrix) -> Matrix:
        """Weighted mean of the task means of each row, over the items seen; equal rows are equal to the last bit."""
        means: Matrix = np.round(self._by_task(scores) @ self._shares(), DECIMALS)
        return means

    def spread(self, differences: Matrix, scale: Matrix) -> Matrix:
        """Standard error of each row's mean as an estimate of the mean over the whole slice, by task.

        Two imaginary items, one won and one lost by `scale`, keep a row without variance from being certain. Items that
        stand for more than others count as fewer: (Σw)²/Σw² of them.
        """
        squared = np.array([(self.stands_for[self.tasks == task] ** 2).sum() for task in range(len(self.totals))])
        present = squared > 0
        seen = np.where(present, self._standing() ** 2 / np.where(present, squared, 1.0), 0.0)
        residuals = (differences - self._by_task(differences)[:, self.tasks]) * self.stands_for
        variance = (self._sums(residuals**2) / np.where(present, squared, 1.0) * seen + 2 * scale**2) / (seen + 1)
        unseen = 1 - np.bincount(self.tasks, minlength=len(self.totals)) / self.totals
        error = np.where(present, variance / np.maximum(seen, 1.0) * unseen, 0.0)
        spread: Matrix = np.sqrt(error @ self._shares() ** 2)
        return spread

    def scale(self, scores: Matrix) -> Matrix:
        """The range of each task's scores."""
        columns = [scores[:, self.tasks == task] for task in range(len(self.totals))]
        return np.array([np.ptp(column) if column.size else 0.0 for column in columns])

    def _by_task(self, values: Matrix) -> Matrix:
        """[rows, tasks]: means over the items of each, as many as they stand for."""
        standing = self._standing()
        means: Matrix = self._sums(values * self.stands_for) / np.where(standing > 0, standing, 1.0)
        return means

    def _sums(self, values: Matrix) -> Matrix:
        sums: Matrix = np.stack([values[:, self.tasks == task].sum(1) for task in range(len(self.totals))], axis=1)
        return sums

    def _standing(self) -> Matrix:
        standing: Matrix = self._sums(self.stands_for[None, :])[0]
        return standing

    def _shares(self) -> Matrix:
        kept: Matrix = np.where(self._standing() > 0, self.weights, 0.0)
        shares: Matrix = kept / kept.sum()
        return shares


def decided(scores: Matrix, strata: Strata, best: int, rule: RaceConfig) -> tuple[list[int], list[int]]:
    """Rows that count as among the `best` first ones, and rows that count as not.

    `scores` holds the items that every row has seen, higher is better; equal rows keep their order.
    """
    seen = scores.shape[1]
    if seen < rule.least:
        return [], []
    order = np.argsort(-strata.means(scores), kind="stable")
    inside, outside = order[:best], order[best:]
    if rule.ended(seen):
        return [int(row) for row in inside], [int(row) for row in outside]
    ahead = _Ahead(scores, strata, rule.width(seen, int(strata.totals.sum())))
    accepted = [row for row in inside if not len(outside) or ahead(row, outside[0])]
    rejected = [row for row in outside if not len(inside) or ahead(inside[-1], row)]
    return [int(row) for row in accepted], [int(row) for row in rejected]


class _Ahead:
    """Whether one row leads another by more than chance would have it."""

    def __init__(self, scores: Matrix, strata: Strata, width: float) -> None:
        self._scores, self._strata, self._width = scores, strata, width
        self._scale = strata.scale(scores)

    def __call__(self, upper: int, lower: int) -> bool:
        difference = (self._scores[upper] - self._scores[lower])[None, :]
        lead = self._strata.means(difference)[0]
        return bool(lead > self._width * self._strata.spread(difference, self._scale)[0])


def certain_width(seen: int, total: int, alpha: float) -> float:
    """The one-sided asymptotic confidence sequence in standard errors, tightest where half of a slice is seen."""
    rho = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / max(1.0, total / 2)
    grown = seen * rho + 1
    return math.sqrt(2 * grown / (seen * rho) * math.log(1 + math.sqrt(grown) / (2 * alpha)))
