"""What a candidate is worth on a slice: chunks that the ledger does not hold are paid for, the rest is looked up."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evomerge.errors import CandidateError
from evomerge.jobs import Job, Outcome
from evomerge.ledger import Ledger
from evomerge.objective import FAILED, Objective, Worth
from evomerge.optimizers import Vector
from evomerge.pools import Pool
from evomerge.recipe import Recipe
from evomerge.recipe_document import to_document
from evomerge.scorers import Chunk, Scorer
from evomerge.scorers.answers import added


@dataclass(frozen=True)
class Candidate:
    """A recipe under evaluation and where it came from: a baseline's name, or generation/place."""

    label: str
    recipe: Recipe
    key: str
    vector: Vector | None = field(default=None, compare=False)  # the point it was decoded from

    @classmethod
    def of(cls, label: str, recipe: Recipe, vector: Vector | None = None) -> "Candidate":
        """The candidate of a recipe, with its content key."""
        return cls(label, recipe, recipe.key(), vector)


class Progress(Protocol):
    """Whoever wants to know how far the present candidates are."""

    def work(self, done: int, total: int) -> None:
        """`done` of `total` chunks of the present batch of candidates are scored."""


class Evaluator:
    """Pays for chunks that the ledger does not hold, and answers from it."""

    def __init__(
        self,
        scorer: Scorer,
        pool: Pool,
        ledger: Ledger,
        listeners: Sequence[Progress] = (),
        objective: Objective | None = None,
    ) -> None:
        self.plan = scorer.plan
        self.objective = objective or Objective(scorer.plan.weights)
        self.baselines: Mapping[str, str] = {}  # label → key of what scores may be measured by
        self._scorer, self._pool, self._ledger = scorer, pool, ledger
        self._listeners = listeners
        self._chunks = {chunk.id: chunk for chunks in self.plan.chunks.values() for chunk in chunks}
        self.scored = 0
        self.busy = 0.0  # seconds in which those items were scored

    def evaluate(self, candidates: Sequence[Candidate], slice_name: str, chunks: int | None = None) -> None:
        """Score the candidates on a slice, or on its first chunks; a failure is recorded and ends that candidate."""
        start = time.monotonic()
        jobs = [
            Job(candidate.key, candidate.recipe, chunk.id)
            for candidate in {c.key: c for c in candidates}.values()
            if self.error(candidate.key, slice_name) is None
            for chunk in self.plan.chunks[slice_name][:chunks]
            if chunk.id not in self._ledger[candidate.key].scores
        ]
        for done, outcome in enumerate(self._pool.run(jobs), 1):
            self._record(outcome)
            for listener in self._listeners:
                listener.work(done, len(jobs))
        self.busy += time.monotonic() - start if jobs else 0.0

    def score(self, key: str, slice_name: str) -> float:
        """The candidate's score on a slice, NaN where it failed or was not scored there."""
        return self.worth(key, slice_name).score

    def worth(self, key: str, slice_name: str) -> Worth:
        """What the objective makes of the candidate's scores on a slice, beside those of the baselines."""
        scores = self.items(key, slice_name)
        return self.objective.worth(self.plan.by_task(scores), self.references(slice_name)) if scores else FAILED

    def references(self, slice_name: str) -> dict[str, dict[str, float]]:
        """The task means of the baselines on a slice, where the objective needs them."""
        known = self.baselines if self.objective.relative else {}
        return {label: self.plan.by_task(self.items(key, slice_name)) for label, key in known.items()}

    def items(self, key: str, slice_name: str) -> dict[str, float]:
        """Item → score on a whole slice; empty where the candidate failed or the slice is incomplete."""
        trial, chunks = self._ledger[key], self.plan.chunks[slice_name]
        if self.error(key, slice_name) or any(chunk.id not in trial.scores for chunk in chunks):
            return {}
        pairs = (zip(chunk.items, trial.scores[chunk.id], strict=True) for chunk in chunks)
        return {item: score for chunk_pairs in pairs for item, score in chunk_pairs}

    def answers(self, key: str, slice_name: str) -> dict[str, int]:
        """Counts of the candidate's generated answers on a slice; empty where there are none."""
        counts = self._ledger[key].answers
        return added([counts[chunk.id] for chunk in self.plan.chunks[slice_name] if chunk.id in counts])

    def first_items(self, key: str, chunks: int) -> dict[str, float]:
        """Item → score in the objective's units on the first chunks of the search slice, all of which are scored."""
        scores = self._ledger[key].scores
        pairs = (zip(chunk.items, scores[chunk.id], strict=True) for chunk in self.plan.chunks["search"][:chunks])
        seen = {item: score for chunk_pairs in pairs for item, score in chunk_pairs}
        return self.objective.items(seen, self.references("search"))

    def scaled(self, key: str, slice_name: str) -> dict[str, float]:
        """The same items in the objective's units, those of the tasks that count: their weighted mean is the score."""
        return self.objective.items(self.items(key, slice_name), self.references(slice_name))

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
            answers = self._scorer.answers(chunk, outcome.responses or ())
        except CandidateError as error:
            self._ledger.append_failure(job.key, chunk.id, str(error), recipe)
            return
        self.scored += len(scores)
        in_order = [scores[item] for item in chunk.items]
        self._ledger.append_scores(job.key, chunk.id, in_order, outcome.seconds, recipe, answers)

    def _grade(self, chunk: Chunk, outcome: Outcome) -> dict[str, float]:
        if outcome.error is not None or outcome.responses is None:
            raise CandidateError(outcome.error or "no responses")
        scores = self._scorer.grade(chunk, outcome.responses)
        for item, score in scores.items():
            if not math.isfinite(score):
                raise CandidateError(f"item {item} has score {score}")
        return scores
