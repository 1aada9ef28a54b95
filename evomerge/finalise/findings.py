"""The findings of a finished search, and their form in result.json."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.finalise.router_trial import RouterTrial
from evomerge.finalise.rows import Row
from evomerge.finalise.sensitivity import Sensitivity
from evomerge.finalise.simplification import Simplification
from evomerge.finalise.statistics import ConfidenceInterval, PairedTest, Verdict
from evomerge.scoring import significantly_more
from evomerge.searching import Candidate


@dataclass(frozen=True)
class ParetoFront:
    """The candidates that are not dominated on `select`, with their rows.

    `hypervolume` is the normalised hypervolume of their holdout scores: the dominated share of the bounding box of the
    scores of all rows, those of the baselines included.
    """

    members: tuple[Candidate, ...]
    rows: tuple[Row, ...]
    tasks: tuple[str, ...]
    hypervolume: float


@dataclass(frozen=True)
class Findings:
    """The winner, its rows and its comparisons with the baselines on holdout; the winner's row is the last.

    `gap` has the mean loss of score from search to holdout for the winner and for the baselines, `floors` the level of
    each floor on holdout, `ceilings` the largest length in tokens of each bound.
    """

    winner: Candidate
    best_baseline: str
    rows: tuple[Row, ...]
    comparisons: tuple[PairedTest, ...]
    gap: Mapping[str, float | None]
    floors: Mapping[str, float]
    ceilings: Mapping[str, float] = field(default_factory=dict)
    simplification: Simplification | None = None
    sensitivity: Sensitivity | None = None
    front: ParetoFront | None = None
    routers: RouterTrial | None = None
    suspects: tuple[Candidate, ...] = ()  # baselines with other recipes that score as the winner does on every item

    def twins(self, fingerprint: str, suspects: Mapping[str, str]) -> list[str]:
        """The labels of the baselines that are the winner itself: by recipe, or by the fingerprints of `suspects`."""
        same = {label for label, found in suspects.items() if found == fingerprint}
        return [row.label for row in self.rows[:-1] if row.key == self.winner.key or row.label in same]

    @property
    def interval(self) -> ConfidenceInterval:
        """The difference between the winner and the best baseline; all zeros if they are the same recipe."""
        intervals = (c.interval for c in self.comparisons if c.label == self.best_baseline)
        return next(intervals, ConfidenceInterval(0.0, 0.0, 0.0, 0.95))

    @property
    def verdict(self) -> Verdict:
        """The verdict of the comparison with the best baseline."""
        return next((c.verdict for c in self.comparisons if c.label == self.best_baseline), "tie")

    @property
    def truncated_more(self) -> tuple[str, ...]:
        """The baselines that the winner beats and that have significantly more truncated answers than the winner."""
        winner = self.rows[-1]
        beaten = {c.label for c in self.comparisons if c.verdict == "better"}
        return tuple(
            row.label
            for row in self.rows[:-1]
            if row.label in beaten and row.answers and significantly_more(row.answers, winner.answers, "truncated")
        )

    def alternatives(self) -> Iterator[tuple[Candidate, Row]]:
        """The recipes that a user may build instead of the winner: the simplified one and the members of the front."""
        if self.simplification and self.simplification.row:
            yield self.simplification.candidate, self.simplification.row
        if self.front:
            yield from zip(self.front.members, self.front.rows, strict=True)

    def as_dict(self) -> dict[str, Any]:
        """The findings as JSON values for result.json."""
        return {
            "winner": {"label": self.winner.label, "key": self.winner.key},
            "best_baseline": self.best_baseline,
            "verdict": self.verdict,
            **_difference(self.interval),
            "rows": [row.as_dict() for row in self.rows],
            "comparisons": [_comparison(comparison) for comparison in self.comparisons],
            "truncated_more": list(self.truncated_more),
            "gap": dict(self.gap),
            "floors": dict(self.floors),
            "ceilings": dict(self.ceilings),
            "simpler": self.simplification and _simplification(self.simplification),
            "sensitivity": self.sensitivity and _sensitivity(self.sensitivity),
            "front": self.front and _front(self.front),
            "routers": self.routers and self.routers.as_dict(),
        }


def count_holdout_uses(entries: Sequence[Mapping[str, Any]]) -> int:
    """How many of the ledger's records of slice use put a candidate on holdout that no earlier record did."""
    seen, uses = set[str](), 0
    for keys in (set(entry["keys"]) for entry in entries if entry["look"] == "holdout"):
        uses += not keys <= seen
        seen |= keys
    return uses


def _difference(interval: ConfidenceInterval) -> dict[str, Any]:
    bounds = {"low": interval.low, "high": interval.high, "level": interval.level}
    return {"difference": interval.difference, "interval": bounds}


def _comparison(comparison: PairedTest) -> dict[str, Any]:
    significance = comparison.significance
    return {
        "label": comparison.label,
        **_difference(comparison.interval),
        "p": significance.p,
        "corrected": comparison.corrected_p,
        "test": significance.test + ("" if significance.exact else ", drawn"),
        "verdict": comparison.verdict,
    }


def _simplification(simplification: Simplification) -> dict[str, Any]:
    fields = {"steps": list(simplification.steps), "tried": simplification.tried, "row": None}
    if simplification.row is None or simplification.interval is None:
        return fields
    return {**fields, "row": simplification.row.as_dict(), **_difference(simplification.interval)}


def _sensitivity(sensitivity: Sensitivity) -> dict[str, Any]:
    return {
        "radius": sensitivity.radius,
        "points": sensitivity.points,
        **_difference(sensitivity.interval),
        "worst": sensitivity.worst,
        "best": sensitivity.best,
        "flat": sensitivity.flat,
    }


def _front(front: ParetoFront) -> dict[str, Any]:
    return {
        "members": [row.as_dict() for row in front.rows],
        "tasks": list(front.tasks),
        "share_of_box": front.hypervolume,
    }
