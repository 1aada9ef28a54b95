"""What a candidate is worth on a slice: chunks that the ledger does not hold are paid for, the rest is looked up."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from evomerge.errors import CandidateError
from evomerge.ledger import Ledger, Rechunking
from evomerge.optimizers import Vector
from evomerge.recipes import Recipe, to_document
from evomerge.scoring import Chunk, Scorer, added
from evomerge.searching.objective import FAILED, Fitness, Objective
from evomerge.workers import Job, Outcome
from evomerge.workers.pools import JobQueue, Pool


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


class ProgressCallback(Protocol):
    """Whoever wants to know how far the present candidates are."""

    def work(self, done: int, total: int) -> None:
        """`done` chunks of the present candidates are scored, of `total` that are known to be needed."""


@dataclass(frozen=True)
class Stage:
    """Candidates that need the first `chunks` chunks, all of them scored before anything is decided."""

    candidates: Sequence[Candidate]
    chunks: int


class Evaluator:
    """Pays for chunks that the ledger does not hold, and answers from it."""

    def __init__(
        self,
        scorer: Scorer,
        pool: Pool,
        ledger: Ledger,
        callbacks: Sequence[ProgressCallback] = (),
        objective: Objective | None = None,
    ) -> None:
        self.plan = scorer.plan
        self.objective = objective or Objective(scorer.plan.weights)
        self.baselines: Mapping[str, str] = {}  # label → key of what scores may be measured by
        self._scorer, self._pool, self._ledger = scorer, pool, ledger
        self._callbacks = callbacks
        self._chunks = {chunk.id: chunk for chunks in self.plan.chunks.values() for chunk in chunks}
        self.asked: set[str] = set()  # keys of whoever was to be scored
        self.scored = 0
        self.busy = 0.0  # seconds in which those items were scored

    def evaluate(self, candidates: Sequence[Candidate], slice_name: str) -> None:
        """Score the candidates on a slice; a failure is recorded and ends that candidate."""
        chunks = self.plan.chunks[slice_name]
        self.in_stages(chunks, iter([Stage(candidates, len(chunks))]))

    def in_stages(self, chunks: Sequence[Chunk], stages: Iterator[Stage]) -> None:
        """Score stage after stage; the next one is asked for when all that the last one needs is in the ledger.

        Workers that would idle score later chunks of the present candidates ahead: they are in the ledger when a stage
        needs them, and whoever decides between stages never looks at them.
        """
        begun, work = None, _Work(self, self._ledger, chunks, stages)
        work.advance()
        for done, outcome in enumerate(self._pool.run(work.jobs), 1):
            if begun is None:  # starting the workers says nothing about their pace
                begun = time.monotonic() - outcome.seconds
            self._record(outcome)
            work.take(outcome.job)
            for callback in self._callbacks:
                callback.work(done, done + len(work.waiting))
        self.busy += 0.0 if begun is None else time.monotonic() - begun

    def score(self, key: str, slice_name: str) -> float:
        """The candidate's score on a slice, NaN where it failed or was not scored there."""
        return self.fitness(key, slice_name).score

    def fitness(self, key: str, slice_name: str) -> Fitness:
        """What the objective makes of the candidate's scores on a slice, beside those of the baselines."""
        scores = self.items(key, slice_name)
        return self.objective.fitness(self.plan.by_task(scores), self.references(slice_name)) if scores else FAILED

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

    def seen_items(self, key: str, chunks: Sequence[Chunk]) -> dict[str, float]:
        """Item → score in the objective's units on chunks of the search slice, all of which are scored."""
        scores = self._ledger[key].scores
        pairs = (zip(chunk.items, scores[chunk.id], strict=True) for chunk in chunks)
        seen = {item: score for chunk_pairs in pairs for item, score in chunk_pairs}
        return self.objective.items(seen, self.references("search"))

    def scaled(self, key: str, slice_name: str) -> dict[str, float]:
        """The same items in the objective's units, those of the tasks that count: their weighted mean is the score."""
        return self.objective.items(self.items(key, slice_name), self.references(slice_name))

    def retry(self, key: str, slice_name: str) -> None:
        """Forget the candidate's failures on a slice: the base's, say, which have ended a run before."""
        for chunk in self.plan.chunks[slice_name]:
            self._ledger[key].errors.pop(chunk.id, None)

    def record_slice_use(self, slice_name: str, keys: Sequence[str]) -> None:
        """Note in the ledger that these candidates are about to be looked at on a slice; once for the same ones."""
        self._ledger.append_slice_use(slice_name, list(dict.fromkeys(keys)))

    def copy_rechunked_scores(self) -> None:
        """Let what an earlier command has scored of a slice dealt anew count for the slice as it was drawn."""
        self._ledger.copy_rechunked_scores({chunk.id: chunk.items for chunk in self.plan.chunks["search"]})

    @property
    def rechunking(self) -> Rechunking | None:
        """How the ledger says that the search slice was dealt anew, if it was."""
        return self._ledger.rechunking

    def rechunk(self, rechunking: Rechunking) -> None:
        """Have the search slice in other chunks from here on; what is known of its items under the old ones holds."""
        chunks = tuple(Chunk(id_, "search", tuple(items)) for id_, items in rechunking.chunks.items())
        self._ledger.append_rechunking(rechunking, {chunk.id: chunk.items for chunk in self.plan.chunks["search"]})
        self.plan = replace(self.plan, chunks={**self.plan.chunks, "search": chunks})
        self._chunks |= {chunk.id: chunk for chunk in chunks}
        self._pool.extend({chunk.id: self._scorer.requests(chunk) for chunk in chunks})

    def record_race(self, generation: int, first: str, stopped: Mapping[str, int]) -> None:
        """Note in the ledger whom a generation's race has stopped, after how many chunks from the `first` on."""
        if stopped:
            self._ledger.append_race(generation, first, stopped)

    def error(self, key: str, slice_name: str) -> str | None:
        """Why the candidate failed on a slice, or None; a failure elsewhere does not change what a slice says."""
        return self.error_on(key, self.plan.chunks[slice_name])

    def error_on(self, key: str, chunks: Sequence[Chunk]) -> str | None:
        """Why the candidate failed on one of these chunks, or None."""
        errors = self._ledger[key].errors
        return next((errors[chunk.id] for chunk in chunks if chunk.id in errors), None)

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


class _Work:
    """The stages of some chunks: what the present one still waits for, and the jobs that workers take."""

    def __init__(self, evaluator: Evaluator, ledger: Ledger, chunks: Sequence[Chunk], stages: Iterator[Stage]) -> None:
        self.jobs = JobQueue()
        self.waiting: set[tuple[str, str]] = set()
        self._evaluator, self._ledger, self._chunks, self._stages = evaluator, ledger, chunks, stages

    def advance(self) -> None:
        """Go to the next stage for which something is to be done."""
        while not self.waiting:
            stage = next(self._stages, None)
            if stage is None:
                self.jobs.put([])
                return
            candidates = {candidate.key: candidate for candidate in stage.candidates}.values()
            self._evaluator.asked |= {candidate.key for candidate in candidates}
            needed = list(self._unscored(candidates, 0, stage.chunks))
            self.waiting = {(job.key, job.chunk) for job in needed}
            self.jobs.put(needed, self._unscored(candidates, stage.chunks, len(self._chunks)))

    def take(self, job: Job) -> None:
        """A job's outcome is in the ledger; one that was needed and has failed ends its candidate."""
        self.jobs.done(job)
        if (job.key, job.chunk) not in self.waiting:
            return
        self.waiting.discard((job.key, job.chunk))
        if job.chunk in self._ledger[job.key].errors:
            self.jobs.drop(job.key)
            self.waiting = {at for at in self.waiting if at[0] != job.key}
        self.advance()

    def _unscored(self, candidates: Iterable[Candidate], start: int, end: int) -> Iterator[Job]:
        """Jobs of those that have not failed before `end`."""
        for candidate in candidates:
            scored = self._ledger[candidate.key].scores
            if self._evaluator.error_on(candidate.key, self._chunks[:end]) is None:
                left = (chunk.id for chunk in self._chunks[start:end] if chunk.id not in scored)
                yield from (Job(candidate.key, candidate.recipe, chunk) for chunk in left)
