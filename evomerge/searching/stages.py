"""Candidates, and the order in which their chunks are scored: stage after stage, with jobs in advance."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from evomerge.ledger import Ledger
from evomerge.optimizers import Vector
from evomerge.recipes import Recipe
from evomerge.scoring import Chunk
from evomerge.workers import Job
from evomerge.workers.pools import JobQueue


@dataclass(frozen=True)
class Candidate:
    """A recipe under evaluation; its label is a baseline's name, or `generation/place` for a proposed one."""

    label: str
    recipe: Recipe
    key: str
    vector: Vector | None = field(default=None, compare=False)  # the point it was decoded from

    @classmethod
    def of(cls, label: str, recipe: Recipe, vector: Vector | None = None) -> "Candidate":
        """A candidate whose key is the recipe's content key."""
        return cls(label, recipe, recipe.key(), vector)


@dataclass(frozen=True)
class Stage:
    """Candidates of which the first `chunks` chunks must be scored before the next stage begins."""

    candidates: Sequence[Candidate]
    chunks: int


class StageQueue:
    """The jobs of the current stage: `missing` holds (recipe key, chunk id) of those that are not in the ledger yet.

    The keys of the candidates whose evaluation was requested are added to `evaluated`.
    """

    def __init__(self, ledger: Ledger, evaluated: set[str], chunks: Sequence[Chunk], stages: Iterator[Stage]) -> None:
        self.jobs = JobQueue()
        self.missing: set[tuple[str, str]] = set()
        self._ledger, self._evaluated, self._chunks, self._stages = ledger, evaluated, chunks, stages

    def advance(self) -> None:
        """Go to the next stage that has missing chunks, and queue its jobs."""
        while not self.missing:
            stage = next(self._stages, None)
            if stage is None:
                self.jobs.put([])
                return
            candidates = {candidate.key: candidate for candidate in stage.candidates}.values()
            self._evaluated |= {candidate.key for candidate in candidates}
            needed = list(self._unscored(candidates, 0, stage.chunks))
            self.missing = {(job.key, job.chunk) for job in needed}
            self.jobs.put(needed, self._unscored(candidates, stage.chunks, len(self._chunks)))

    def complete(self, job: Job) -> None:
        """Update the stage after a job's outcome is in the ledger; a failed job of the stage ends its candidate."""
        self.jobs.done(job)
        if (job.key, job.chunk) not in self.missing:
            return
        self.missing.discard((job.key, job.chunk))
        if job.chunk in self._ledger[job.key].errors:
            self.jobs.drop(job.key)
            self.missing = {(key, chunk) for key, chunk in self.missing if key != job.key}
        self.advance()

    def _unscored(self, candidates: Iterable[Candidate], start: int, end: int) -> Iterator[Job]:
        """Jobs for the unscored chunks from `start` to `end`, without candidates that have failed before `end`."""
        for candidate in candidates:
            scored = self._ledger[candidate.key].scores
            if self._ledger[candidate.key].error_on(self._chunks[:end]) is None:
                left = (chunk.id for chunk in self._chunks[start:end] if chunk.id not in scored)
                yield from (Job(candidate.key, candidate.recipe, chunk) for chunk in left)
