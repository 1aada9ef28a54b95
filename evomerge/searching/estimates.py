"""The score of candidates that a race has stopped: their own mean, corrected for the difficulty of the items seen.

The completed candidates are a control variate with a fitted slope (Cochran, Sampling Techniques, 1977, ch. 7): their
mean on the whole slice is known, and their mean on the seen items says how easy these are. But they were completed
because they were ahead on these very items, so a part of their lead is chance and is subtracted. Both numbers come from
an analysis of variance of the first items, which all candidates have seen, into candidates, items and residuals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.searching.race import DECIMALS, Matrix, Strata


@dataclass(frozen=True)
class Control:
    """How far the completed candidates correct the means of the others.

    `slope` is the share of a deviation of their mean that all candidates have in common, `luck` the share of their lead
    on the seen items that is not there on the whole slice; both are in 0 … 1.
    """

    slope: float
    luck: float

    @classmethod
    def fit(cls, scores: Matrix, strata: Strata, completed: int) -> "Control":
        """From scores [candidates, items] of at least two candidates, of which `completed` are completed later.

        The variance between candidates is uncertain. It is divided by 1 plus half its relative standard error, because
        equal candidates otherwise count as different ones too often.
        """
        candidates, item_means = len(scores), scores.mean(0)
        noise = float(strata.error_variances(scores - item_means).sum()) / (candidates - 1)
        shared = float(strata.error_variances(item_means[None, :])[0]) - noise / candidates
        between = float(strata.means(scores).var(ddof=1)) / (1 + math.sqrt(2 / (candidates - 1)) / 2)
        unseen = 1 - scores.shape[1] / int(strata.task_sizes.sum())
        luck = min(unseen, noise / between) if between > 0 else unseen
        own = (1 - luck) * noise / completed
        return cls(shared / (shared + own) if shared > 0 else 0.0, luck)

    def estimates(self, means: Matrix, completed: Sequence[int], whole: Matrix) -> Matrix:
        """Estimates of the score on the whole slice, from `means` [candidates] on items that all of these have seen.

        `completed` are the rows that have scores on the whole slice, which `whole` holds in the same order.
        """
        seen = means[list(completed)].mean()
        excess = seen - whole.mean() - self.luck * (seen - means.mean())
        found: Matrix = np.round(means - self.slope * excess, DECIMALS)
        return found
