"""The loop: ask, decode, score what the ledger does not know, tell.

It imports no optimizer, no Ray, no lm-eval and no torch: those are behind `Optimizer`, `Pool` and `Scorer`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evomerge.errors import CandidateError, RunError
from evomerge.jobs import Job, Outcome
from evomerge.ledger import Ledger
from evomerge.optimizers import Optimizer
from evomerge.pools import Pool
from evomerge.recipe import Recipe
from evomerge.recipe_document import to_document
from evomerge.scorers import Chunk, Scorer
from evomerge.space import SearchSpace

FAILED = math.nan  # a failed candidate's score: it compares as no better than anything


@dataclass(frozen=True)
class Candidate:
    """A recipe under evaluation and where it came from: a baseline's name, or generation/place."""

    label: str
    recipe: Recipe
    key: str

    @classmethod
    def of(cls, label: str, recipe: Recipe) -> "Candidate":
        """The candidate of a recipe, with its content key."""
        return cls(label, recipe, recipe.key())


class Listener(Protocol):
    """Whoever wants to know how the search is going: progress display, best recipe so far, trackers."""

    def work(self, done: int, total: int) -> None:
        """`done` of `total` chunks of the present batch of candidates are scored."""

    def generation(self, number: int, board: "Board", scores: Sequence[float]) -> None:
        """A generation is scored; `scores` in the order asked, NaN for failures; number 0 is the baselines."""


class Evaluator:
    """Pays for chunks that the ledger does not hold, and answers from it."""

    def __init__(self, scorer: Scorer, pool: Pool, ledger: Ledger, listeners: Sequence[Listener] = ()) -> None:
        self.plan = scorer.plan
        self._scorer, self._pool, self._ledger = scorer, pool, ledger
        self._listeners = listeners
        self._chunks = {chunk.id: chunk for chunks in self.plan.chunks.values() for chunk in chunks}
        self.scored = 0

    def evaluate(self, candidates: Sequence[Candidate], slice_name: str) -> None:
        """Score the candidates on a slice; failures are recorded and end that candidate only."""
        jobs = [
            Job(candidate.key, candidate.recipe, chunk.id)
            for candidate in {c.key: c for c in candidates}.values()
            if self.error(candidate.key, slice_name) is None
            for chunk in self.plan.chunks[slice_name]
            if chunk.id not in self._ledger[candidate.key].scores
        ]
        for done, outcome in enumerate(self._pool.run(jobs), 1):
            self._record(outcome)
            for listener in self._listeners:
                listener.work(done, len(jobs))

    def score(self, key: str, slice_name: str) -> float:
        """The candidate's score on a slice, NaN where it failed or was not scored there."""
        scores = self.items(key, slice_name)
        return self.plan.score(scores) if scores else FAILED

    def items(self, key: str, slice_name: str) -> dict[str, float]:
        """Item → score on a whole slice; empty where the candidate failed or the slice is incomplete."""
        trial, chunks = self._ledger[key], self.plan.chunks[slice_name]
        if self.error(key, slice_name) or any(chunk.id not in trial.scores for chunk in chunks):
            return {}
        pairs = (zip(chunk.items, trial.scores[chunk.id], strict=True) for chunk in chunks)
        return {item: score for chunk_pairs in pairs for item, score in chunk_pairs}

    def retry(self, key: str, slice_name: str) -> None:
        """Forget the candidate's failures on a slice: the base's, say, which have ended a run before."""
        for chunk in self.plan.chunks[slice_name]:
            self._ledger[key].errors.pop(chunk.id, None)

    def look(self, slice_name: str, keys: Sequence[str]) -> None:
        """Note in the ledger that these candidates are about to be looked at on a slice; once for the same ones."""
        self._ledger.append_look(slice_name, list(dict.fromkeys(keys)))

    def error(self, key: str, slice_name: str) -> str | None:
        """Why the candidate failed on a slice, or None; a failure elsewhere does not change what a slice says."""
        errors = self._ledger[key].errors
        return next((errors[chunk.id] for chunk in self.plan.chunks[slice_name] if chunk.id in errors), None)

    def _record(self, outcome: Outcome) -> None:
        job, recipe = outcome.job, to_document(outcome.job.recipe)
        chunk = self._chunks[job.chunk]
        try:
            scores = self._grade(chunk, outcome)
        except CandidateError as error:
            self._ledger.append_failure(job.key, chunk.id, str(error), recipe)
            return
        self.scored += len(scores)
        in_order = [scores[item] for item in chunk.items]
        self._ledger.append_scores(job.key, chunk.id, in_order, outcome.seconds, recipe)

    def _grade(self, chunk: Chunk, outcome: Outcome) -> dict[str, float]:
        if outcome.error is not None or outcome.responses is None:
            raise CandidateError(outcome.error or "no responses")
        scores = self._scorer.grade(chunk, outcome.responses)
        for item, score in scores.items():
            if not math.isfinite(score):
                raise CandidateError(f"item {item} has score {score}")
        return scores


class Board:
    """Every candidate seen, with its score on the search slice; the best first."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.candidates: dict[str, Candidate] = {}
        self._scores: dict[str, float] = {}  # a slice's scores never change once they are there

    def add(self, candidates: Sequence[Candidate]) -> list[float]:
        """Take in scored candidates; returns their scores. A recipe keeps the first label it was seen under."""
        for candidate in candidates:
            if candidate.key not in self.candidates:
                self.candidates[candidate.key] = candidate
                self._scores[candidate.key] = self._evaluator.score(candidate.key, "search")
        return [self._scores[candidate.key] for candidate in candidates]

    def ranked(self) -> list[tuple[Candidate, float]]:
        """Best first, failures left out; equal scores in the order seen."""
        scored = [(candidate, self._scores[key]) for key, candidate in self.candidates.items()]
        return sorted((pair for pair in scored if not math.isnan(pair[1])), key=lambda pair: -pair[1])

    def failures(self) -> dict[str, str]:
        """Label → reason of every candidate that failed in the search."""
        errors = ((c.label, self._evaluator.error(c.key, "search")) for c in self.candidates.values())
        return {label: error for label, error in errors if error}


def search(
    evaluator: Evaluator,
    space: SearchSpace,
    optimizer: Optimizer,
    baselines: Mapping[str, Recipe],
    evaluations: int,
    listeners: Sequence[Listener] = (),
) -> Board:
    """Score the baselines, then generations until `evaluations` candidates were asked for.

    The last generation is cut to the budget and not told, so that a larger budget continues exactly here.
    RunError where the base itself cannot be scored.
    """
    board = Board(evaluator)
    first = [Candidate.of(label, recipe) for label, recipe in baselines.items()]
    evaluator.retry(first[0].key, "search")
    evaluator.evaluate(first, "search")
    _announce(listeners, 0, board, board.add(first))
    if error := evaluator.error(first[0].key, "search"):
        raise RunError(f"the base itself cannot be scored: {error}; mend that, then repeat the command")
    asked = number = 0
    while asked < evaluations and (vectors := optimizer.ask()):
        number += 1
        kept = vectors[: evaluations - asked]
        asked += len(kept)
        candidates = [Candidate.of(f"{number}/{place}", space.decode(v)) for place, v in enumerate(kept)]
        evaluator.evaluate(candidates, "search")
        scores = board.add(candidates)
        _announce(listeners, number, board, scores)
        if len(kept) == len(vectors):
            optimizer.tell(vectors, [loss(score) for score in scores])
    return board


def loss(score: float) -> float:
    """The one sign flip: optimizers minimise, and a failure is worse than anything."""
    return math.inf if math.isnan(score) else -score


def _announce(listeners: Sequence[Listener], number: int, board: Board, scores: Sequence[float]) -> None:
    for listener in listeners:
        listener.generation(number, board, scores)


def header(scorer: Scorer, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a ledger's scores are scores of, as far as it is known before weights are read."""
    chunks = {chunk.id: list(chunk.items) for chunks in scorer.plan.chunks.values() for chunk in chunks}
    return {"config": dict(config), "chunks": chunks, "items": scorer.fingerprint}
