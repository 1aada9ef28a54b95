"""A row of the result table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """The scores of one model; `scores` by slice are NaN where the model failed.

    `role` is baseline, winner, simpler (the simplified winner) or member (of the Pareto front). `tasks` holds the task
    means on holdout, `lengths` the lengths in tokens that the objective uses, `answers` counts of generated answers.
    """

    label: str
    role: str
    key: str
    scores: Mapping[str, float]
    tasks: Mapping[str, float]
    answers: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON values; a failure is null."""
        scores = {name: None if math.isnan(score) else score for name, score in self.scores.items()}
        row: dict[str, Any] = {
            "label": self.label,
            "role": self.role,
            "key": self.key,
            "scores": scores,
            "tasks": dict(self.tasks),
        }
        row |= {"lengths": dict(self.lengths)} if self.lengths else {}
        return {**row, "answers": dict(self.answers)} if self.answers else row
