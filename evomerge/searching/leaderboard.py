"""All candidates of a search with their fitness, and the interface of what is told of its progress."""

import math
from collections.abc import Collection, Sequence
from typing import Protocol

from evomerge.optimizers import Surrogate, Vector
from evomerge.searching.descent import DescentCallback
from evomerge.searching.evaluator import Evaluator, ProgressCallback
from evomerge.searching.objective import Fitness
from evomerge.searching.stages import Candidate


class SearchCallback(ProgressCallback, DescentCallback, Protocol):
    """Receives the results of a search: progress display, writer of the best recipe so far, trackers."""

    def generation(self, number: int, board: "Leaderboard", scores: Sequence[float]) -> None:
        """Called when a generation is scored; generation 0 is the baselines.

        `scores` are in the order of the candidates, NaN for failures; the score of a candidate that a race has stopped
        is an estimate.
        """


class Leaderboard:
    """All candidates of a search with their fitness on the search slice, and a surrogate model of their losses."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.candidates: dict[str, Candidate] = {}
        self.fitness: dict[str, Fitness] = {}  # of candidates that no race has stopped
        self.failed = 0  # candidates that could not be scored
        self._best: str | None = None
        self._places: dict[str, int] = {}  # key → its place in `candidates`
        self.surrogate = Surrogate()  # of all losses so far, those of stopped candidates included
        self.predicted_optima: dict[str, Vector] = {}  # set when the search ends: points that were never scored

    def add(self, candidates: Sequence[Candidate], complete: Collection[str] | None = None) -> None:
        """Add candidates; only those whose keys are in `complete` (None: all of them) get a rank.

        A recipe keeps the label under which it was added first.
        """
        for candidate in candidates:
            self.candidates.setdefault(candidate.key, candidate)
            self._places.setdefault(candidate.key, len(self._places))
            if (complete is None or candidate.key in complete) and candidate.key not in self.fitness:
                self._rank(candidate.key)

    def best(self) -> tuple[Candidate, float] | None:
        """The first of `ranked`, without sorting."""
        return None if self._best is None else (self.candidates[self._best], self.fitness[self._best].score)

    def _rank(self, key: str) -> None:
        self.fitness[key] = fitness = self._evaluator.fitness(key, "search")
        self.failed += self._evaluator.error(key, "search") is not None
        if not math.isnan(fitness.score) and (self._best is None or self._order(key) > self._order(self._best)):
            self._best = key

    def _order(self, key: str) -> tuple[float, float, int]:
        return (*self.fitness[key].rank, -self._places[key])

    def ranked(self) -> list[tuple[Candidate, float]]:
        """Candidates and scores, best first, without failed and stopped ones; equal candidates in the order added."""
        scored = [(c, self.fitness[key].score) for key, c in self.candidates.items() if key in self.fitness]
        good = (pair for pair in scored if not math.isnan(pair[1]))
        return sorted(good, key=lambda pair: self.fitness[pair[0].key].rank, reverse=True)

    @property
    def stopped_count(self) -> int:
        """The number of candidates that races have stopped."""
        return len(self.candidates) - len(self.fitness)

    def stopped(self) -> list[Candidate]:
        """The candidates that races have stopped and that no later race has completed."""
        return [candidate for key, candidate in self.candidates.items() if key not in self.fitness]

    def failures(self) -> dict[str, str]:
        """Label → reason of every candidate that failed in the search."""
        errors = ((self.candidates[key].label, self._evaluator.error(key, "search")) for key in self.fitness)
        return {label: error for label, error in errors if error}
