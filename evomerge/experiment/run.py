"""A whole run in its folder: check, search, finalise, freeze, report; the same call again resumes it."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rich.console import Console

from evomerge.atomic import write_atomically
from evomerge.environment import machine, versions
from evomerge.experiment.baseline_check import BaselineCheck
from evomerge.experiment.best_recipe import BestRecipe
from evomerge.experiment.chosen_experts import choose_experts
from evomerge.experiment.experiment import Experiment, from_config
from evomerge.experiment.flip_texts import write_flip_texts
from evomerge.experiment.generation_engine import recorded_engine
from evomerge.experiment.resume import fixed_part
from evomerge.experiment.router_step import RouterStep
from evomerge.experiment.rule_check import rules_record
from evomerge.experiment.run_log import run_log
from evomerge.experiment.search_progress import search_status
from evomerge.experiment.submission_step import recorded_submission
from evomerge.experiment.time_limit import keep_for_submission, ledger_deadline, timed_evaluation
from evomerge.finalise import Finaliser, RecipeWriter, count_holdout_uses, describe_twins, same_weights
from evomerge.ledger import Ledger
from evomerge.parsing import dump_yaml
from evomerge.paths import CONFIG, LEDGER, RECIPE, RESULT
from evomerge.recipes import Recipe, dump_recipe
from evomerge.report import Display, comparison_table, print_table, result_table, write_report
from evomerge.searching import (
    Evaluator,
    Leaderboard,
    RemainingBudget,
    SearchCallback,
    ledger_header,
    search,
)
from evomerge.terminal import duration, print_line
from evomerge.trackers import Tracker
from evomerge.workers import pools

log = logging.getLogger(__name__)


def run_experiment(
    config: Mapping[str, Any], folder: Path, console: Console, started: float | None = None
) -> dict[str, Any]:
    """Search, or continue the search of this folder, and return what result.json holds.

    `started` is the time of the monotonic clock at which the command began.
    """
    start = time.monotonic() if started is None else started
    experiment = from_config(config, folder)
    with run_log(folder), ExitStack() as stack:  # a tracker outlives the display: it stores the report
        with Display(console, experiment.config.budget.evaluations, started=start) as display:
            display.show_phase("tasks, models")
            # These raise for everything that can be wrong before weights are read.
            experiment.check()
            display.show_phase("hashes")
            before = recorded_submission(folder)
            with closing(open_ledger(experiment, config, folder, start)) as ledger:
                tracker = stack.enter_context(closing(experiment.tracker(folder, config)))
                experiment = choose_experts(experiment, ledger, display, start)
                with closing(pools.LazyPool(lambda: _start(experiment, display))) as pool:
                    document, board = _search(experiment, folder, display, ledger, pool, tracker, start)
                _write_result(folder, document, start, display)  # the memory of the pool is needed for the submission
                tracker.finish(document)
                if experiment.submission:
                    display.show_phase("submission")
                    made_from = experiment.submission.write(document["fingerprint"], before, display.print_line)
                    kept = document["seconds"].get("kept_for_submission")
                    document["submission"] = made_from | ({} if kept is None else {"seconds": kept})
                _write_result(folder, document, start, display)
                ledger.mark_time()
        report = _report(console, folder, document, board)
        tracker.log_files([folder / RECIPE, report])
    return document


def _search(
    experiment: Experiment,
    folder: Path,
    display: Display,
    ledger: Ledger,
    pool: pools.Pool,
    tracker: Tracker,
    start: float,
) -> tuple[dict[str, Any], Leaderboard]:
    """Search, finalise and freeze; what result.json holds, and the candidates of the search."""
    space, scorer, baselines, section = experiment.space, experiment.scorer, experiment.baselines, experiment.config
    evaluator = Evaluator(scorer, pool, ledger, [display], experiment.objective)
    evaluator.evaluated |= set(ledger.screening["scored"] if ledger.screening else ())
    deadline = ledger_deadline(experiment, ledger, start)
    timed = timed_evaluation(experiment, evaluator, ledger, deadline)
    remaining = RemainingBudget(section.budget, evaluator, ledger, experiment.reserve(), deadline)
    keep_for_submission(experiment, deadline, pool, display)
    display.show_time_left(remaining.seconds_left)
    display.show_status(search_status(experiment, remaining, evaluator, pool))
    tracker.count_items(lambda: remaining.spent)
    check = BaselineCheck(evaluator, scorer.chances("search"), display.print_line)
    callbacks: list[SearchCallback] = [display, check, BestRecipe(folder / RECIPE, evaluator), tracker]
    slopes = experiment.slopes(pool, ledger) if experiment.item_losses else None
    display.show_phase("baselines")
    optimizer = experiment.optimizer()
    mode = section.search.mode
    board = search(evaluator, space, optimizer, baselines, remaining, callbacks, section.race, slopes, timed, mode)
    remaining.end_search()
    labels = {ref: label for label, ref in experiment.experts.items()}
    calibrate = RouterStep(experiment, evaluator, pool, folder) if section.finalise.calibrate_routers else None
    steps = section.finalise, section.seed, display.show_phase, timed, calibrate
    finaliser = Finaliser(evaluator, board, baselines, *steps)
    result = finaliser.run(space, labels)
    display.show_phase("recipe")
    fingerprint_of = _fingerprints(experiment, pool)
    writer = RecipeWriter(folder, experiment.frozen, experiment.family.hashes(), fingerprint_of)
    fingerprint = writer.write(result)
    suspects = same_weights(result.suspects, fingerprint, fingerprint_of, folder / RESULT)
    twins = describe_twins(result.twins(fingerprint, suspects), experiment.experts)
    document = result.as_dict() | {"layers": experiment.family.layout.layers}
    document |= {"winner_is": twins, "suspects": suspects, "task_warnings": check.warnings}
    document |= rules_record(experiment)
    document |= recorded_engine(experiment)
    document |= {"screen": dict(ledger.screening)} if ledger.screening else {}
    document |= {"shortened": _shortened(experiment, evaluator)}
    document |= _record(board, evaluator, ledger, fingerprint, remaining.spent)
    document["seconds"] |= _kept_and_earlier(deadline.kept, sum(ledger.elapsed.values()))
    write_flip_texts(folder, document, evaluator, scorer)
    return document, board


def _fingerprints(experiment: Experiment, pool: pools.Pool) -> Callable[[Recipe], str]:
    """The fingerprint of a recipe's weights; RunError if a model's file was changed before or meanwhile."""

    def found(recipe: Recipe) -> str:
        fingerprint = pool.fingerprint(recipe)
        experiment.family.refuse_changed_files()
        return fingerprint

    return found


def _kept_and_earlier(kept: float, earlier: float) -> dict[str, float]:
    """The seconds that were kept for the submission, and those of earlier commands, where there are any."""
    seconds = {"kept_for_submission": kept, "earlier_commands": earlier}
    return {name: round(value, 2) for name, value in seconds.items() if value}


def _write_result(folder: Path, document: dict[str, Any], start: float, display: Display) -> None:
    """Write result.json with the times up to now."""
    document["seconds"] |= {"this_time": round(time.monotonic() - start, 2), "phases": display.phase_seconds()}
    write_atomically(folder / RESULT, json.dumps(document, indent=2) + "\n")


def _shortened(experiment: Experiment, evaluator: Evaluator) -> dict[str, Any]:
    """The slices that ended early for lack of time, as used and planned items, and the steps that were left out."""
    planned, used = experiment.scorer.plan, evaluator.plan
    return {
        name: {"items": len(used.items(name)), "of": len(planned.items(name))} if name in used.chunks else "left out"
        for name in evaluator.cuts
    }


def open_ledger(experiment: Experiment, config: Mapping[str, Any], folder: Path, start: float) -> Ledger:
    """Open the ledger and write the configuration and a first recipe, so that an interrupted run leaves a valid one."""
    known = ledger_header(experiment.scorer, fixed_part(config))
    known |= recorded_engine(experiment)
    models = experiment.family.hashes()
    used = {"used": sorted(experiment.used_items), "contents": experiment.scorer.contents("search", "select")}
    started = None if experiment.config.budget.hours is None else start
    header = {**known, "models": models, "versions": versions(), **used}
    ledger = Ledger(folder / LEDGER, header, started, experiment.family.refuse_changed_files)
    _warn_of_other_versions(ledger)
    write_atomically(folder / CONFIG, dump_yaml(dict(config), sort_keys=False))
    if not (folder / RECIPE).exists():
        baselines = experiment.baselines
        write_atomically(folder / RECIPE, dump_recipe(baselines.get("uniform", baselines["base"])))
    return ledger


def _warn_of_other_versions(ledger: Ledger) -> None:
    """Log a warning where a run is resumed with other versions of its libraries."""
    before, now = ledger.header.get("versions", {}), versions()
    changed = [f"{name} {old} → {now.get(name, 'absent')}" for name, old in before.items() if now.get(name) != old]
    if changed:
        log.warning("resumed with other versions than it began with: %s", ", ".join(changed))


def _start(experiment: Experiment, display: Display) -> pools.Pool:
    """Prepare the methods' tables, then start the workers."""
    spec = experiment.worker_spec()  # raises for a prompt that does not fit the model, before anything is prepared
    if experiment.family.dequantised:
        with display.phase("dequantise"):
            experiment.family.dequantise()
    with display.phase("prepare"):
        for done, total in experiment.prepare():
            display.show_preparation(done, total)
    with display.phase("load model"):
        return experiment.pool(spec)


def _record(board: Leaderboard, evaluator: Evaluator, ledger: Ledger, fingerprint: str, spent: float) -> dict[str, Any]:
    """The counts, times and versions of result.json; logs a warning where the ledger holds other candidates."""
    trials = [trial for key, trial in ledger.trials.items() if key in evaluator.evaluated]
    if others := len(ledger.trials) - len(trials):
        log.warning("%s: %d candidates that this search does not ask for are passed over", ledger.path, others)
    return {
        "fingerprint": fingerprint,
        "asked": list(board.candidates),
        "counts": {
            "candidates": len(board.candidates),
            "failed": len(board.failures()),
            "stopped_early": len(board.stopped()),
            "holdout_looks": count_holdout_uses(ledger.slice_uses),
            "items_scored": sum(trial.items for trial in trials),
            "search_item_equivalents": round(spent),
            "items_scored_this_time": evaluator.scored_items,
        },
        "seconds": {"scoring_in_all": round(sum(trial.seconds for trial in trials), 2)},
        "versions": versions(),
        "machine": machine(),
    }


def _report(console: Console, folder: Path, document: Mapping[str, Any], board: Leaderboard) -> Path:
    """Print the tables and the first failures, and write the HTML report; returns its path."""
    print_table(console, result_table(document))
    print_table(console, comparison_table(document))
    for label, reason in list(board.failures().items())[:3]:
        print_line(console, f"failed: {label}: {reason}")
    phases = sorted(document["seconds"]["phases"].items(), key=lambda pair: -pair[1])
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in phases if seconds >= 1)
    if parts:
        before = document["seconds"].get("earlier_commands")
        print_line(console, f"time: {parts}{f'; earlier commands {duration(before)}' if before else ''}")
    print_line(console, f"recipe: {folder / RECIPE}")
    report = write_report(folder)
    print_line(console, f"report: {report}")
    return report
