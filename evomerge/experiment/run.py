"""A whole run in its folder: check, search, finalise, freeze, report; the same call again resumes it."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from evomerge.atomic import write_atomically
from evomerge.environment import machine, versions
from evomerge.errors import RunError
from evomerge.experiment.experiment import Experiment, from_config
from evomerge.experiment.fixed import fixed_part
from evomerge.finalise import RECIPE, Finaliser, RecipeWriter, count_holdout_uses
from evomerge.ledger import Ledger
from evomerge.recipes import Recipe, dump_recipe, load_recipe
from evomerge.report import Display, comparison_table, result_table, write_report
from evomerge.scoring import Request
from evomerge.searching import Candidate, Evaluator, Leaderboard, RemainingBudget, SearchCallback, ledger_header, search
from evomerge.workers import Outcome
from evomerge.workers.pools import JobQueue, Pool

log = logging.getLogger(__name__)

CONFIG, LEDGER, RESULT = "config.yaml", "trials.jsonl", "result.json"


def run_experiment(config: Mapping[str, Any], folder: Path, console: Console) -> dict[str, Any]:
    """Search, or continue the search of this folder, and return what result.json holds."""
    start = time.monotonic()
    experiment = from_config(config)
    # Everything that can be wrong shows while these are made, before weights are read.
    space, scorer, optimizer, rows = (
        experiment.space,
        experiment.scorer,
        experiment.optimizer(),
        experiment.baselines,
    )
    models = experiment.family.hashes()
    known = ledger_header(scorer, fixed_part(config))
    ledger = Ledger(folder / LEDGER, {**known, "models": models, "versions": versions()})
    _warn_of_other_versions(ledger)
    write_atomically(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))
    if not (folder / RECIPE).exists():  # a run that is cut off leaves a merge, whatever it had time for
        write_atomically(folder / RECIPE, dump_recipe(rows.get("uniform", rows["base"])))
    display = Display(console, experiment.budget.evaluations)
    pool, tracker = _LazyPool(lambda: _start(experiment, display)), experiment.tracker(folder, config)
    try:
        with display:
            evaluator = Evaluator(scorer, pool, ledger, [display], experiment.objective)
            callbacks: list[SearchCallback] = [display, _BestSoFar(folder / RECIPE, evaluator), tracker]
            remaining = RemainingBudget(experiment.budget, evaluator, ledger, experiment.reserve(), start)
            display.show_time_left(remaining.seconds_left)
            board = search(evaluator, space, optimizer, rows, remaining, callbacks, experiment.race)
            display.phase("finalise")
            labels = {ref: label for label, ref in experiment.experts.items()}
            result = Finaliser(evaluator, board, rows, experiment.finalise, experiment.seed).run(space, labels)
            digest = RecipeWriter(folder, experiment.frozen, models, pool.fingerprint).keep(result)
        layers = {"layers": experiment.family.layout.layers}
        document = result.as_dict() | layers | _record(board, evaluator, ledger, digest, time.monotonic() - start)
        write_atomically(folder / RESULT, json.dumps(document, indent=2) + "\n")
        tracker.finish(document)
    finally:
        pool.close()
        ledger.close()
        tracker.close()
    _report(console, folder, document, board)
    return document


def _warn_of_other_versions(ledger: Ledger) -> None:
    """A resumed search whose libraries have changed goes on, with a word about it."""
    before, now = ledger.header.get("versions", {}), versions()
    changed = [f"{name} {old} → {now.get(name, 'absent')}" for name, old in before.items() if now.get(name) != old]
    if changed:
        log.warning("resumed with other versions than it began with: %s", ", ".join(changed))


def _start(experiment: Experiment, display: Display) -> Pool:
    spec = experiment.worker_spec()  # a prompt that does not fit the model is refused before anything is prepared
    for done, total in experiment.prepare():
        display.prepared(done, total)
    display.phase("baselines")
    return experiment.pool(spec)


class _LazyPool:
    """Starts its workers with the first job: a finished run starts none."""

    def __init__(self, start: Callable[[], Pool]) -> None:
        self._start = start
        self._pool: Pool | None = None
        self._more: dict[str, Sequence[Request]] = {}

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        if len(jobs):
            yield from self._started().run(jobs)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        self._more |= requests
        if self._pool:
            self._pool.extend(requests)

    def fingerprint(self, recipe: Recipe) -> str:
        return self._started().fingerprint(recipe)

    def close(self) -> None:
        if self._pool:
            self._pool.close()

    def _started(self) -> Pool:
        if self._pool is None:
            self._pool = self._start()
            if self._more:
                self._pool.extend(self._more)
        return self._pool


class _BestSoFar:
    """Keeps recipe.yaml at the best recipe of the search slice, valid at any moment."""

    def __init__(self, path: Path, evaluator: Evaluator) -> None:
        self._path, self._evaluator = path, evaluator
        self._key: str | None = None

    def work(self, done: int, total: int) -> None:
        """Nothing between generations."""

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Write the best recipe where it is a new one; a replayed generation leaves the file alone."""
        ranked = board.ranked()
        if not ranked or (not self._evaluator.scored_items and self._path.exists()):
            return
        (candidate, score) = ranked[0]
        if candidate.key != self._key:
            notes = {"label": candidate.label, "scores": {"search": score}}
            write_atomically(self._path, dump_recipe(candidate.recipe.with_notes(notes)))
            self._key = candidate.key


def _record(board: Leaderboard, evaluator: Evaluator, ledger: Ledger, digest: str, seconds: float) -> dict[str, Any]:
    trials = [trial for key, trial in ledger.trials.items() if key in evaluator.evaluated]
    if others := len(ledger.trials) - len(trials):
        log.warning("%s: %d candidates that this search does not ask for are passed over", ledger.path, others)
    return {
        "fingerprint": digest,
        "asked": list(board.candidates),
        "counts": {
            "candidates": len(board.candidates),
            "failed": len(board.failures()),
            "stopped_early": len(board.stopped()),
            "holdout_looks": count_holdout_uses(ledger.slice_uses),
            "items_scored": sum(trial.items for trial in trials),
            "items_scored_this_time": evaluator.scored_items,
        },
        "seconds": {"this_time": round(seconds, 2), "scoring_in_all": round(sum(trial.seconds for trial in trials), 2)},
        "versions": versions(),
        "machine": machine(),
    }


def _report(console: Console, folder: Path, document: Mapping[str, Any], board: Leaderboard) -> None:
    console.print(result_table(document))
    console.print(comparison_table(document))
    for label, reason in list(board.failures().items())[:3]:
        console.print(f"failed: {label}: {reason}", highlight=False, soft_wrap=True)
    console.print(f"recipe: {folder / RECIPE}", highlight=False, soft_wrap=True)
    console.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)


def open_run(folder: Path) -> tuple[Experiment, Recipe, dict[str, Any]]:
    """Experiment, winner and result of a finished run; RunError where the folder does not hold them."""
    for name in (CONFIG, RECIPE, RESULT):
        if not (folder / name).is_file():
            raise RunError(f"{folder}: no {name}; give the folder of a finished run")
    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
        result = json.loads((folder / RESULT).read_text())
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{folder}: {CONFIG} or {RESULT} is damaged ({reason}); repeat the run's command") from None
    return from_config(config), load_recipe(folder / RECIPE), result


def replay(folder: Path, console: Console) -> bool:
    """Rebuild the winner and score it again on every slice; True where fingerprint and scores agree."""
    experiment, recipe, result = open_run(folder)
    candidate = Candidate.of("winner", recipe)
    pool = experiment.pool(experiment.worker_spec())
    scratch = folder / "replay.partial"
    scratch.unlink(missing_ok=True)
    ledger, held = Ledger(scratch, {}), Ledger(folder / LEDGER, {})
    try:
        recorded = Evaluator(experiment.scorer, pool, held, objective=experiment.objective)
        recorded.baselines = {label: recipe.key() for label, recipe in experiment.baselines.items()}
        evaluator = Evaluator(experiment.scorer, pool, ledger)
        if held.rechunking and not held.rechunking.chunks.keys().isdisjoint(held[candidate.key].scores):
            evaluator.rechunk(held.rechunking)  # in other batches scores may differ by rounding
        digest = pool.fingerprint(recipe)
        same = _compare(console, "fingerprint", result["fingerprint"], digest)
        for name, value in result["rows"][-1]["scores"].items():
            evaluator.evaluate([candidate], name)
            means = evaluator.plan.by_task(evaluator.item_scores(candidate.key, name))
            score = experiment.objective.fitness(means, recorded.baseline_means(name)).score
            same &= _compare(console, f"score on {name}", value, score)
    finally:
        pool.close()
        ledger.close()
        held.close()
        scratch.unlink(missing_ok=True)
    return same


def _compare(console: Console, what: str, recorded: Any, found: Any) -> bool:
    same = bool(recorded == found)
    line = f"{what}: {found}" if same else f"{what}: recorded {recorded}, now {found}"
    console.print(f"{'same' if same else 'DIFFERS'}  {line}", highlight=False, soft_wrap=True)
    return same
