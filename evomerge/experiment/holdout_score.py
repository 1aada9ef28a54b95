"""A finished model, such as a quantised file of the winner, scored on the holdout items of a run, beside its claim."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from evomerge.errors import RunError
from evomerge.experiment.experiment import Experiment
from evomerge.experiment.finished_model import open_model
from evomerge.experiment.replay import open_run
from evomerge.experiment.score_config import RunScoreConfig
from evomerge.finalise import PairedScores, bootstrap
from evomerge.ledger import Ledger, refuse_other_search
from evomerge.paths import LEDGER
from evomerge.recipes import Recipe
from evomerge.scoring import Request, task_of
from evomerge.scoring.engine import Encoder, ScoringEngine
from evomerge.searching import Candidate, Evaluator
from evomerge.workers import Outcome
from evomerge.workers.pools import JobQueue

HOLDOUT = "holdout"


@dataclass(frozen=True)
class ScoredOnRun:
    """The model's holdout score and task means, those that the run recorded for its models, and the loss of score.

    `interval` is that of model − winner, paired by item; None for a corpus-level metric.
    """

    model: str
    score: float
    tasks: Mapping[str, float]
    recorded: Sequence[tuple[str, float | None, Mapping[str, float]]]  # label, score, task means
    difference: float
    interval: tuple[float, float, float] | None  # low, high, level

    def lines(self) -> Iterator[str]:
        """A line for each recorded model, then the model and its difference from the winner."""
        rows = [*self.recorded, (self.model, self.score, self.tasks)]
        width = max(len(label) for label, _, _ in rows)
        for label, score, tasks in rows:
            means = (f"{task} {mean:.4f}" for task, mean in tasks.items())
            yield "  ".join([f"{label:<{width}}", "failed" if score is None else f"{score:.4f}", *means])
        bounds = ""
        if self.interval:
            low, high, level = self.interval
            bounds = f" [{low:+.4f}, {high:+.4f}], {level:.0%} interval"
        yield f"against the winner as it was searched: {self.difference:+.4f}{bounds}"


def score_on_run(model: str, config: RunScoreConfig) -> ScoredOnRun:
    """Score a folder, a GGUF file or a hub id with its own tokenizer on the holdout of a finished run.

    RunError where the run's folder is not complete, where a scoring function has changed, or where the model fails.
    """
    folder = Path(config.run)
    experiment, recipe, result = open_run(folder)
    if functions := experiment.scorer.functions:
        refuse_other_search(folder / LEDGER, {"functions": functions})
    held = Ledger(folder / LEDGER, {})
    with tempfile.TemporaryDirectory() as scratch:
        ledger = Ledger(Path(scratch) / LEDGER, {})
        try:
            return _scored(model, experiment, recipe, result, held, ledger, config)
        finally:
            ledger.close()
            held.close()


def _scored(
    model: str,
    experiment: Experiment,
    recipe: Recipe,
    result: Mapping[str, Any],
    held: Ledger,
    ledger: Ledger,
    config: RunScoreConfig,
) -> ScoredOnRun:
    winner, pool = Candidate.of("winner", recipe), _Single(model, experiment, config)
    recorded = Evaluator(experiment.scorer, pool, held, objective=experiment.objective)
    evaluator = Evaluator(experiment.scorer, pool, ledger, objective=experiment.objective)
    recorded.baselines = {label: each.key() for label, each in experiment.baselines.items()}
    cuts = [cut for cut in held.cuts if cut.budget in (None, asdict(experiment.config.budget))]
    for one in (recorded, evaluator):
        one.apply_cuts(cuts)
    evaluator.evaluate([winner], HOLDOUT)
    if error := evaluator.error(winner.key, HOLDOUT):
        raise RunError(f"{model}: cannot be scored on the run's items: {error}")
    means = evaluator.means(winner.key, HOLDOUT)
    score = experiment.objective.fitness(means, recorded.baseline_means(HOLDOUT)).score
    rows = [(_label(row), row["scores"].get(HOLDOUT), row["tasks"]) for row in result["rows"]]
    claimed = rows[-1][1]
    interval = None if experiment.objective.corpus_level else _interval(evaluator, recorded, result, experiment)
    difference = math.nan if claimed is None else score - claimed
    tasks = {task: mean for task, mean in means.items() if task in rows[-1][2]}
    return ScoredOnRun(model, score, tasks, rows, difference, interval)


def _interval(
    evaluator: Evaluator, recorded: Evaluator, result: Mapping[str, Any], experiment: Experiment
) -> tuple[float, float, float] | None:
    """The bootstrap interval of model − winner on the holdout items; None where the ledger lacks the winner's."""
    winner = result["rows"][-1]["key"]
    (key,) = evaluator.evaluated
    if not recorded.item_scores(winner, HOLDOUT):
        return None
    weights = experiment.objective.weights
    references = recorded.baseline_means(HOLDOUT)
    items = experiment.objective.items(
        evaluator.item_scores(key, HOLDOUT), references, evaluator.item_lengths(key, HOLDOUT)
    )
    paired = PairedScores.of(items, recorded.objective_items(winner, HOLDOUT), weights, task_of)
    found = bootstrap(paired, seed=experiment.config.seed)
    return found.low, found.high, found.level


def _label(row: Mapping[str, Any]) -> str:
    return "winner" if row["role"] == "winner" else str(row["label"])


class _Single:
    """A pool whose one model is always the one that is scored, whatever the recipe of a job is."""

    def __init__(self, model: str, experiment: Experiment, config: RunScoreConfig) -> None:
        self._source, self._experiment, self._config = model, experiment, config
        self._engine: ScoringEngine | None = None
        self._encoder: Encoder | None = None

    @property
    def workers(self) -> int:
        """The one model."""
        return 1

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """The outcomes in the order of the queue; the model is loaded before the first."""
        engine, encoder = self._loaded()
        plan = self._experiment.scorer.plan
        chunks = {chunk.id: chunk for chunks in plan.chunks.values() for chunk in chunks}
        while job := jobs.next(None):
            encoded = encoder.encode(self._experiment.scorer.requests(chunks[job.chunk]))
            with torch.inference_mode():
                responses = engine.respond(encoded)
            yield Outcome(job, responses)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Does nothing: the holdout is never regrouped."""

    def fingerprint(self, recipe: Recipe) -> str:
        """Not to be asked: the model is not that of a recipe."""
        raise NotImplementedError

    def calibrate(self, recipe: Recipe, work: Any) -> Any:
        """Not to be asked: the model is not that of a recipe."""
        raise NotImplementedError

    def close(self) -> None:
        """Does nothing: the model is freed with the pool."""

    def _loaded(self) -> tuple[ScoringEngine, Encoder]:
        if self._engine is None or self._encoder is None:
            settings = self._experiment.config.model
            model, tokenizer = open_model(self._source, self._config.as_score_config(settings.dtype))
            limits: dict[str, Any] = {"batch_tokens": settings.batch_tokens}
            self._encoder = Encoder(tokenizer, model.config, max_length=settings.max_length, **limits)
            options: dict[str, Any] = {"batch_size": settings.batch_size, "path": settings.scoring, **limits}
            self._engine = ScoringEngine(model, tokenizer, self._encoder, **options)
        return self._engine, self._encoder
