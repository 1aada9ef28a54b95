"""The stopping rule of races: which candidates of a generation need no further items, from the scores so far.

An evolution strategy needs to know only which μ candidates of a generation are the best. A race over items therefore
stops a candidate as soon as it is clearly among them or clearly not (Heidrich-Meisner & Igel, ICML 2009). The test is
paired, on the items that all running candidates have seen, against the neighbour across the border between the ranks
μ and μ + 1. Standard errors are those of an estimate of the mean over the finite slice, so they reach zero when all
its items are seen (Cochran, Sampling Techniques, 1977, ch. 5: stratified sampling without replacement). With `alpha`,
the bound holds for all tests of a race together: an asymptotic confidence sequence (Waudby-Smith et al., Annals of
Statistics 52, 2024).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError
from evomerge.schema import Count, OneOf, Range

Matrix = NDArray[np.float64]  # [candidates, items]
ORDERS = ("rotating", "fixed", "informative")
DECIMALS = 12  # means are rounded, so that two means which differ by rounding errors only are equal


@dataclass(frozen=True, kw_only=True)
class RaceConfig:
    """When a race stops a candidate before it has seen the whole slice.

    No candidate stops before `least` items and before an item of every task of the objective. Two candidates are
    distinguished if they differ by `margin` standard errors; after `most` items all candidates but the leader stop, in
    their present order. `alpha` replaces both: it is the probability that a pair is ever distinguished wrongly. `widen`
    raises `most` if the items or hours of the budget pay for more. `items` chooses the order: rotating from generation
    to generation, fixed, or informative, which takes items first on which baselines disagree.
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
        """The rule in words, for the `check` command."""
        kind = "" if self.items == "rotating" else f"{self.items} "
        if self.alpha is not None:
            return f"stops with an error probability of {self.alpha:g}, after {self.least} {kind}items or more"
        last = "or more" if self.most is None else f"or more, ends after {self.most}"
        return f"stops on a difference of {self.margin:g} standard errors, after {self.least} {kind}items {last}"

    @property
    def can_widen(self) -> bool:
        """Whether the budget may raise `most`."""
        return self.widen and self.alpha is None and self.most is not None

    def has_ended(self, seen: int) -> bool:
        """Whether the race ends after so many items."""
        return self.alpha is None and self.most is not None and seen >= self.most

    def critical_value(self, seen: int, total: int) -> float:
        """The number of standard errors that a difference must exceed after `seen` of `total` items."""
        return self.margin if self.alpha is None else confidence_sequence_width(seen, total, self.alpha)


@dataclass(frozen=True)
class Strata:
    """The items that a race has seen, as a stratified sample of the slice.

    `tasks` holds the index of each item's task and `item_weights` the number of items of the slice that it represents.
    `task_sizes` is the number of items that the slice has of each task, `task_weights` each task's weight in the score.
    """

    tasks: NDArray[np.int64]
    item_weights: Matrix
    task_sizes: NDArray[np.int64]
    task_weights: Matrix

    @property
    def covers_tasks(self) -> bool:
        """Whether an item of every task has been seen; before that, a part of the score is unknown."""
        return bool((np.bincount(self.tasks, minlength=len(self.task_sizes)) > 0).all())

    def means(self, scores: Matrix) -> Matrix:
        """The weighted mean of task means for each row of scores [rows, items]; equal rows have bitwise equal means."""
        means: Matrix = np.round(self._task_means(scores) @ self._task_shares, DECIMALS)
        return means

    def standard_errors(self, differences: Matrix, ranges: Matrix) -> Matrix:
        """The standard error of each row's mean as an estimate of the mean over the slice.

        `differences` is [rows, items] and `ranges` holds each task's range of scores. Each task gets two pseudo-items
        with deviations of plus and minus its range, so that the error of a row without variance is not zero. The
        effective sample size of weighted items is (Σw)²/Σw².
        """
        seen = self._effective_sizes
        variance = (self._mean_squares(differences) * seen + 2 * ranges**2) / (seen + 1)
        squared_error = np.where(seen > 0, variance / np.maximum(seen, 1.0) * self._unseen_shares, 0.0)
        errors: Matrix = np.sqrt(squared_error @ self._task_shares**2)
        return errors

    def error_variances(self, rows: Matrix) -> Matrix:
        """The variance of each row's mean as an estimate of the mean over the slice, without pseudo-items: unbiased.

        A task of which one item is seen has the mean variance of the others.
        """
        seen = self._effective_sizes
        several = np.bincount(self.tasks, minlength=len(seen)) > 1
        if not several.any():
            return np.zeros(len(rows))
        variance = self._mean_squares(rows) / np.where(several, 1 - 1 / np.maximum(seen, 1.0), 1.0)
        variance = np.where(several, variance, variance[:, several].mean(1, keepdims=True))
        variances: Matrix = variance / np.maximum(seen, 1.0) * self._unseen_shares @ self._task_shares**2
        return variances

    def ranges(self, scores: Matrix) -> Matrix:
        """The range (maximum − minimum) of each task's scores."""
        columns = [scores[:, self.tasks == task] for task in range(len(self.task_sizes))]
        return np.array([np.ptp(column) if column.size else 0.0 for column in columns])

    @cached_property
    def _effective_sizes(self) -> Matrix:
        """[tasks]: the effective number of seen items, (Σw)²/Σw²; 0 for a task without items."""
        squared = self._task_sums(self.item_weights[None, :] ** 2)[0]
        sizes: Matrix = self._weight_sums**2 / np.where(squared > 0, squared, 1.0)
        return sizes

    def _mean_squares(self, rows: Matrix) -> Matrix:
        """[rows, tasks]: the weighted mean of the squared deviations from the mean; 0 for a task without items."""
        squared = self._task_sums(self.item_weights[None, :] ** 2)[0]
        residuals = (rows - self._task_means(rows)[:, self.tasks]) * self.item_weights
        squares: Matrix = self._task_sums(residuals**2) / np.where(squared > 0, squared, 1.0)
        return squares

    @cached_property
    def _unseen_shares(self) -> Matrix:
        """[tasks]: the share of the slice's items that is not seen."""
        shares: Matrix = 1 - np.bincount(self.tasks, minlength=len(self.task_sizes)) / self.task_sizes
        return shares

    def _task_means(self, values: Matrix) -> Matrix:
        """[rows, tasks]: weighted means over the items of each task; 0 for a task without items."""
        sums = self._weight_sums
        means: Matrix = self._task_sums(values * self.item_weights) / np.where(sums > 0, sums, 1.0)
        return means

    def _task_sums(self, values: Matrix) -> Matrix:
        """[rows, tasks]: sums over the items of each task."""
        sums: Matrix = np.stack([values[:, self.tasks == task].sum(1) for task in range(len(self.task_sizes))], axis=1)
        return sums

    @cached_property
    def _weight_sums(self) -> Matrix:
        """[tasks]: the sum of the item weights of each task."""
        sums: Matrix = self._task_sums(self.item_weights[None, :])[0]
        return sums

    @cached_property
    def _task_shares(self) -> Matrix:
        """[tasks]: each task's share in the score, over the tasks that have items."""
        kept: Matrix = np.where(self._weight_sums > 0, self.task_weights, 0.0)
        shares: Matrix = kept / kept.sum()
        return shares


def decide(scores: Matrix, strata: Strata, best: int, config: RaceConfig) -> tuple[list[int], list[int]]:
    """The rows accepted as being among the `best` highest, and the rows rejected as not being among them.

    `scores` is [candidates, items] on the items that all of them have seen; rows with equal means keep their order.
    Nothing is decided before every task of the objective has been seen, not even after `most` items: an unseen task
    may reverse any order.
    """
    seen = scores.shape[1]
    if seen < config.least or not strata.covers_tasks:
        return [], []
    order = np.argsort(-strata.means(scores), kind="stable")
    inside, outside = order[:best], order[best:]
    if config.has_ended(seen):
        return [int(row) for row in inside], [int(row) for row in outside]
    leads = _LeadTest(scores, strata, config.critical_value(seen, int(strata.task_sizes.sum())))
    accepted = [row for row in inside if not len(outside) or leads(row, outside[0])]
    rejected = [row for row in outside if not len(inside) or leads(inside[-1], row)]
    return [int(row) for row in accepted], [int(row) for row in rejected]


class _LeadTest:
    """Whether the mean of one row exceeds that of another by more than the critical number of standard errors."""

    def __init__(self, scores: Matrix, strata: Strata, critical_value: float) -> None:
        self._scores, self._strata, self._critical_value = scores, strata, critical_value
        self._ranges = strata.ranges(scores)

    def __call__(self, upper: int, lower: int) -> bool:
        difference = (self._scores[upper] - self._scores[lower])[None, :]
        lead = self._strata.means(difference)[0]
        return bool(lead > self._critical_value * self._strata.standard_errors(difference, self._ranges)[0])


def confidence_sequence_width(seen: int, total: int, alpha: float) -> float:
    """The width, in standard errors, of a one-sided confidence sequence that is tightest after half of the items."""
    rho = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / max(1.0, total / 2)
    grown = seen * rho + 1
    return math.sqrt(2 * grown / (seen * rho) * math.log(1 + math.sqrt(grown) / (2 * alpha)))
