"""Evaluation of candidates on a slice: chunks in the ledger are looked up, missing chunks are scored by the workers."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from evomerge.errors import CandidateError
from evomerge.ledger import Cut, Learnt, Ledger, Rechunking
from evomerge.recipes import to_document
from evomerge.scoring import Chunk, Scorer, add_counts
from evomerge.searching.objective import FAILED, Fitness, Objective
from evomerge.searching.stages import Candidate, Stage, StageQueue
from evomerge.workers import Job, Outcome
from evomerge.workers.pools import JobQueue, Pool


class ProgressCallback(Protocol):
    """Receives the progress of an evaluation."""

    def work(self, done: int, total: int) -> None:
        """Called after each scored chunk: `done` chunks of the current candidates, of `total` known to be needed."""


class Evaluator:
    """Scores candidates with the workers of a pool, and reads scores and failures from the ledger."""

    def __init__(
        self,
        scorer: Scorer,
        pool: Pool,
        ledger: Ledger,
        callbacks: Sequence[ProgressCallback] = (),
        objective: Objective | None = None,
    ) -> None:
        self.plan = scorer.plan
        self.objective = objective or Objective(self.plan.weights, aggregated=tuple(self.plan.aggregates))
        self.baselines: Mapping[str, str] = {}  # label → key, once they are scored; an objective may refer to them
        self._scorer, self._pool, self._ledger = scorer, pool, ledger
        self._callbacks = callbacks
        self._chunks = {chunk.id: chunk for chunks in self.plan.chunks.values() for chunk in chunks}
        self.cuts: dict[str, Cut] = {}  # slices that end early, and steps that are left out
        self.evaluated: set[str] = set()  # keys of all candidates whose evaluation was requested
        self.scored_items = 0  # items that the workers have scored, without those found in the ledger
        self.scoring_seconds = 0.0  # wall-clock time in which they were scored
        self.busy_seconds = 0.0  # of all workers, in jobs
        self.write_seconds = 0.0  # of these, spent on writing candidates into models

    @property
    def seconds_per_item(self) -> float | None:
        """Wall-clock seconds per item, with all workers; None if this command has scored nothing."""
        return self.scoring_seconds / self.scored_items if self.scored_items else None

    @property
    def recorded_seconds_per_item(self) -> float | None:
        """The seconds of one worker per item in the whole ledger; None for an empty one."""
        items = sum(trial.items for trial in self._ledger.trials.values())
        return sum(trial.seconds for trial in self._ledger.trials.values()) / items if items else None

    def missing_items(self, candidates: Sequence[Candidate], chunks: Sequence[Chunk]) -> int:
        """How many items of the candidates are not scored yet."""
        pairs = ((chunk, self._ledger[candidate.key]) for candidate in candidates for chunk in chunks)
        return sum(len(chunk.items) for chunk, trial in pairs if chunk.id not in trial.scores)

    def is_begun(self, candidate: Candidate) -> bool:
        """Whether a chunk of the search slice is scored, or has failed, for the candidate."""
        trial = self._ledger[candidate.key]
        return any(chunk.id in trial.scores or chunk.id in trial.errors for chunk in self.plan.chunks["search"])

    def cut(self, name: str, chunks: int, budget: Mapping[str, Any] | None) -> None:
        """End a slice after its first chunks from now on, or leave out a step, and record that for this budget."""
        cut = Cut(name, chunks, budget)
        self._ledger.append_cut(cut)
        self.apply_cuts([cut])

    def apply_cuts(self, cuts: Iterable[Cut]) -> None:
        """End slices after their first chunks, and leave out steps."""
        for cut in cuts:
            self.cuts[cut.name] = cut
            if cut.name in self.plan.chunks:
                first = self.plan.chunks[cut.name][: cut.chunks]
                self.plan = replace(self.plan, chunks={**self.plan.chunks, cut.name: first})

    def is_cut(self, name: str) -> bool:
        """Whether a slice is shortened, or a step left out."""
        return name in self.cuts

    def evaluate(self, candidates: Sequence[Candidate], slice_name: str) -> None:
        """Score the candidates on a slice; a failure is recorded, and that candidate is not scored further."""
        chunks = self.plan.chunks[slice_name]
        self.evaluate_stages(chunks, iter([Stage(candidates, len(chunks))]))

    def evaluate_stages(self, chunks: Sequence[Chunk], stages: Iterator[Stage]) -> None:
        """Score stage after stage; the next stage is requested when all chunks of the last one are in the ledger.

        Idle workers score later chunks of the current candidates in advance. A decision between two stages does not
        depend on these, because it reads the chunks of its own stage only.
        """
        queue = StageQueue(self._ledger, self.evaluated, chunks, stages)
        queue.advance()
        for done, job in enumerate(self.run_jobs(queue.jobs), 1):
            queue.complete(job)
            self.show_work(done, done + len(queue.missing))

    def run_jobs(self, jobs: JobQueue) -> Iterator[Job]:
        """The jobs of a queue in the order in which they end, each when its outcome is in the ledger.

        The caller calls `done` of the queue for each of them.
        """
        begun = None
        for outcome in self._pool.run(jobs):
            if begun is None:  # the time until the workers have started does not belong to the speed of scoring
                begun = time.monotonic() - outcome.seconds
            self._record(outcome)
            self.busy_seconds += outcome.seconds
            self.write_seconds += outcome.write_seconds
            begun, before = time.monotonic(), begun
            self.scoring_seconds += begun - before
            yield outcome.job
        self.scoring_seconds += 0.0 if begun is None else time.monotonic() - begun

    def show_work(self, done: int, total: int) -> None:
        """Tell the callbacks how many chunks of how many are scored."""
        for callback in self._callbacks:
            callback.work(done, total)

    def score(self, key: str, slice_name: str) -> float:
        """The candidate's score on a slice; NaN if it failed or was not scored on all of it."""
        return self.fitness(key, slice_name).score

    def fitness(self, key: str, slice_name: str) -> Fitness:
        """The candidate's fitness on a slice by the objective; FAILED if it failed or was not scored on all of it."""
        scores = self.item_scores(key, slice_name)
        if not scores:
            return FAILED
        return self.objective.fitness(self.means(key, slice_name), self.baseline_means(slice_name))

    def baseline_means(self, slice_name: str) -> dict[str, dict[str, float]]:
        """Label → task means of the baselines on a slice; empty if the objective does not refer to baselines."""
        known = self.baselines if self.objective.uses_baselines else {}
        return {label: self.means(key, slice_name) for label, key in known.items()}

    def means(self, key: str, slice_name: str) -> dict[str, float]:
        """Task → mean or corpus-level metric on a slice, and the measures of length; empty if the candidate failed."""
        scores = self.item_scores(key, slice_name)
        return self.plan.measures(scores, self.item_lengths(key, slice_name)) if scores else {}

    def item_lengths(self, key: str, slice_name: str) -> dict[str, float]:
        """Item → length of its answers in tokens, for items with generated answers on chunks that are scored."""
        return self._lengths_on(key, self.plan.chunks[slice_name])

    def _lengths_on(self, key: str, chunks: Sequence[Chunk]) -> dict[str, float]:
        known = self._ledger[key].lengths
        pairs = (zip(chunk.items, known[chunk.id], strict=True) for chunk in chunks if chunk.id in known)
        return {item: length for each in pairs for item, length in each if length is not None}

    def item_scores(self, key: str, slice_name: str) -> dict[str, Any]:
        """Item → score on a slice; empty if the candidate failed or was not scored on all of it."""
        trial, chunks = self._ledger[key], self.plan.chunks[slice_name]
        if self.error(key, slice_name) or any(chunk.id not in trial.scores for chunk in chunks):
            return {}
        pairs = (zip(chunk.items, trial.scores[chunk.id], strict=True) for chunk in chunks)
        return {item: score for chunk_pairs in pairs for item, score in chunk_pairs}

    def answer_counts(self, key: str, slice_name: str) -> dict[str, int]:
        """Counts of the candidate's generated answers on a slice; empty if nothing was generated."""
        counts = self._ledger[key].answers
        return add_counts([counts[chunk.id] for chunk in self.plan.chunks[slice_name] if chunk.id in counts])

    def objective_items_on(self, key: str, chunks: Sequence[Chunk]) -> dict[str, float]:
        """Item → score in the objective's units, on chunks of the search slice that must all be scored."""
        scores = self._ledger[key].scores
        pairs = (zip(chunk.items, scores[chunk.id], strict=True) for chunk in chunks)
        seen = {item: score for chunk_pairs in pairs for item, score in chunk_pairs}
        return self.objective.items(seen, self.baseline_means("search"), self._lengths_on(key, chunks))

    def objective_items(self, key: str, slice_name: str) -> dict[str, float]:
        """Item → score in the objective's units, for the tasks of the objective: their weighted mean is the score."""
        lengths = self.item_lengths(key, slice_name)
        return self.objective.items(self.item_scores(key, slice_name), self.baseline_means(slice_name), lengths)

    def clear_failures(self, key: str, slice_name: str) -> None:
        """Discard the candidate's recorded failures on a slice, so that it is scored again."""
        for chunk in self.plan.chunks[slice_name]:
            self._ledger[key].errors.pop(chunk.id, None)

    def record_slice_use(self, slice_name: str, keys: Sequence[str]) -> None:
        """Record in the ledger that these candidates are evaluated on a slice; an equal record is not repeated."""
        self._ledger.append_slice_use(slice_name, list(dict.fromkeys(keys)))

    def copy_rechunked_scores(self) -> None:
        """Copy scores that an earlier command has recorded for regrouped chunks to the original ones."""
        self._ledger.copy_rechunked_scores({chunk.id: chunk.items for chunk in self.plan.chunks["search"]})

    @property
    def rechunking(self) -> Rechunking | None:
        """The other grouping of the search slice that the ledger has recorded, or None."""
        return self._ledger.rechunking

    def rechunk(self, rechunking: Rechunking) -> None:
        """Use other chunks for the search slice from now on; scores of the old chunks are copied to them."""
        chunks = tuple(Chunk(id_, "search", tuple(items)) for id_, items in rechunking.chunks.items())
        self._ledger.append_rechunking(rechunking, {chunk.id: chunk.items for chunk in self.plan.chunks["search"]})
        self.plan = replace(self.plan, chunks={**self.plan.chunks, "search": chunks})
        self._chunks |= {chunk.id: chunk for chunk in chunks}
        self._pool.extend({chunk.id: self._scorer.requests(chunk) for chunk in chunks})

    @property
    def learnt(self) -> Sequence[Learnt]:
        """The results of an asynchronous search that the ledger has recorded, in order."""
        return self._ledger.learnt

    def record_learnt(self, learnt: Learnt) -> None:
        """Record a result of an asynchronous search."""
        self._ledger.append_learnt(learnt)

    def is_known(self, key: str, chunk: Chunk) -> bool:
        """Whether a chunk is scored for a candidate, or has failed."""
        return chunk.id in self._ledger[key].scores or chunk.id in self._ledger[key].errors

    def scored_chunks(self, key: str, chunks: Sequence[Chunk]) -> int:
        """How many of these chunks are scored, up to the first that is not."""
        known = self._ledger[key].scores
        return next((place for place, chunk in enumerate(chunks) if chunk.id not in known), len(chunks))

    def record_race(self, generation: int, first: str, stopped: Mapping[str, int]) -> None:
        """Record the candidates that a race stopped, as key → chunks seen, counted from the chunk with id `first`."""
        if stopped:
            self._ledger.append_race(generation, first, stopped)

    def error(self, key: str, slice_name: str) -> str | None:
        """Why the candidate failed on a slice, or None; failures on other slices do not count."""
        return self.error_on(key, self.plan.chunks[slice_name])

    def error_on(self, key: str, chunks: Sequence[Chunk]) -> str | None:
        """Why the candidate failed on one of these chunks, or None."""
        return self._ledger[key].error_on(chunks)

    def _record(self, outcome: Outcome) -> None:
        job = outcome.job
        recipe = {} if job.key in self._ledger.trials else to_document(job.recipe)  # its first line has it
        chunk = self._chunks[job.chunk]
        try:
            scores = self._grade(chunk, outcome)
            answers = self._scorer.answers(chunk, outcome.responses or ())
            lengths = self._scorer.lengths(chunk, outcome.responses or ())
        except CandidateError as error:
            self._ledger.append_failure(job.key, chunk.id, str(error), recipe)
            return
        self.scored_items += len(scores)
        in_order = [scores[item] for item in chunk.items]
        tokens = [lengths.get(item) for item in chunk.items] if lengths else None
        self._ledger.append_scores(job.key, chunk.id, in_order, outcome.seconds, recipe, answers, tokens)

    def _grade(self, chunk: Chunk, outcome: Outcome) -> dict[str, Any]:
        if outcome.error is not None or outcome.responses is None:
            raise CandidateError(outcome.error or "no responses")
        scores = self._scorer.grade(chunk, outcome.responses)
        for item, score in scores.items():
            if isinstance(score, float) and not math.isfinite(score):
                raise CandidateError(f"item {item} has score {score}")
        return scores
