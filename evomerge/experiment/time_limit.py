"""The time limit of a run, and evaluation within it, from the ledger of its earlier commands."""

from dataclasses import asdict

from evomerge.experiment.experiment import Experiment
from evomerge.ledger import Ledger
from evomerge.report import Display
from evomerge.searching import Deadline, Evaluator, TimedEvaluation
from evomerge.workers import pools


def ledger_deadline(experiment: Experiment, ledger: Ledger, start: float) -> Deadline:
    """The end of the run's time; the command began at `start`, a time of the monotonic clock."""
    return Deadline(experiment.config.budget.hours, start, sum(ledger.elapsed.values()))


def keep_for_submission(experiment: Experiment, deadline: Deadline, pool: pools.Pool, display: Display) -> None:
    """Keep the time of the submission, where the run has a limited time and ends with one."""
    if experiment.submission and deadline.hours is not None:
        display.show_phase("pace")
        deadline.kept = experiment.submission.seconds_needed(pool)


def timed_evaluation(
    experiment: Experiment, evaluator: Evaluator, ledger: Ledger, deadline: Deadline
) -> TimedEvaluation:
    """Evaluation that ends slices where time is short; those that the ledger has recorded for this budget end now."""
    budget = asdict(experiment.config.budget)
    evaluator.apply_cuts(cut for cut in ledger.cuts if cut.budget in (None, budget))
    return TimedEvaluation(evaluator, deadline, budget)
