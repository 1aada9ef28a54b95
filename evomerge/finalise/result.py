"""What a run ends with: the rows of its table, every comparison, and the same as plain objects for result.json."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.finalise.sensitivity import Sensitivity
from evomerge.finalise.simplification import Simpler
from evomerge.finalise.statistics import Interval, PairedTest, Verdict
from evomerge.scoring import significantly_more
from evomerge.searching import Candidate


@dataclass(frozen=True)
class Row:
    """One line of the result table; scores by slice, NaN where it failed."""

    label: str
    role: str
    key: str
    scores: Mapping[str, float]
    tasks: Mapping[str, float]  # on holdout
    answers: Mapping[str, int] = field(default_factory=dict)  # generated on holdout, counted

    def as_dict(self) -> dict[str, Any]:
        """Plain objects; a failure is null."""
        scores = {name: None if math.isnan(score) else score for name, score in self.scores.items()}
        found = {"label": self.label, "role": self.role, "key": self.key, "scores": scores, "tasks": dict(self.tasks)}
        return {**found, "answers": dict(self.answers)} if self.answers else found


@dataclass(frozen=True)
class ParetoFront:
    """The candidates that none dominates on `select`, with their rows.

    `share` of the box of all rows' scores on holdout, the baselines' included, is dominated by them.
    """

    members: tuple[Candidate, ...]
    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class Beside:
    """The simpler recipe, with its row and its difference to the winner on holdout where something could go."""

    simpler: Simpler
    row: Row | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Result:
    """The winner, every baseline, and what the winner is worth against each of them on unseen items."""

    winner: Candidate
    best_baseline: str
    rows: tuple[Row, ...]
    comparisons: tuple[PairedTest, ...]
    gap: Mapping[str, float | None]
    floors: Mapping[str, float]  # on holdout
    simpler: Beside | None = None
    sensitivity: Sensitivity | None = None
    front: ParetoFront | None = None

    @property
    def interval(self) -> Interval:
        """The difference to the best baseline; nothing where the winner is that."""
        found = (c.interval for c in self.comparisons if c.label == self.best_baseline)
        return next(found, Interval(0.0, 0.0, 0.0, 0.95))

    @property
    def verdict(self) -> Verdict:
        """What may be said of the winner and the best baseline."""
        return next((c.verdict for c in self.comparisons if c.label == self.best_baseline), "tie")

    @property
    def truncated_more(self) -> tuple[str, ...]:
        """The baselines that the winner beats and whose answers were cut off clearly more often than its own."""
        winner = self.rows[-1]
        beaten = {c.label for c in self.comparisons if c.verdict == "better"}
        return tuple(
            row.label
            for row in self.rows[:-1]
            if row.label in beaten and row.answers and significantly_more(row.answers, winner.answers, "truncated")
        )

    def offered(self) -> Iterator[tuple[Candidate, Row]]:
        """What may be built beside the winner, with its rows: the simpler recipe, the members of the front."""
        if self.simpler and self.simpler.row:
            yield self.simpler.simpler.candidate, self.simpler.row
        if self.front:
            yield from zip(self.front.members, self.front.rows, strict=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain objects for result.json."""
        return {
            "winner": {"label": self.winner.label, "key": self.winner.key},
            "best_baseline": self.best_baseline,
            "verdict": self.verdict,
            "difference": self.interval.difference,
            "interval": _interval(self.interval),
            "rows": [row.as_dict() for row in self.rows],
            "comparisons": [_comparison(comparison) for comparison in self.comparisons],
            "truncated_more": list(self.truncated_more),
            "gap": dict(self.gap),
            "floors": dict(self.floors),
            "simpler": self.simpler and _simpler(self.simpler),
            "sensitivity": self.sensitivity and _sensitivity(self.sensitivity),
            "front": self.front and _front(self.front),
        }


def count_holdout_uses(entries: Sequence[Mapping[str, Any]]) -> int:
    """How many looks at holdout, of those in the ledger, showed a candidate that none before had."""
    seen, found = set[str](), 0
    for keys in (set(entry["keys"]) for entry in entries if entry["look"] == "holdout"):
        found += not keys <= seen
        seen |= keys
    return found


def _interval(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high, "level": interval.level}


def _comparison(comparison: PairedTest) -> dict[str, Any]:
    found = comparison.significance
    return {
        "label": comparison.label,
        "difference": comparison.interval.difference,
        "interval": _interval(comparison.interval),
        "p": found.p,
        "corrected": comparison.corrected,
        "test": found.test + ("" if found.exact else ", drawn"),
        "verdict": comparison.verdict,
    }


def _simpler(beside: Beside) -> dict[str, Any]:
    found = {"steps": list(beside.simpler.steps), "tried": beside.simpler.tried, "row": None}
    if beside.row is None or beside.interval is None:
        return found
    difference = {"difference": beside.interval.difference, "interval": _interval(beside.interval)}
    return {**found, "row": beside.row.as_dict(), **difference}


def _sensitivity(found: Sensitivity) -> dict[str, Any]:
    return {
        "radius": found.radius,
        "points": found.points,
        "difference": found.interval.difference,
        "interval": _interval(found.interval),
        "worst": found.worst,
        "best": found.best,
        "flat": found.flat,
    }


def _front(front: ParetoFront) -> dict[str, Any]:
    return {
        "members": [row.as_dict() for row in front.rows],
        "tasks": list(front.tasks),
        "share_of_box": front.share,
    }
