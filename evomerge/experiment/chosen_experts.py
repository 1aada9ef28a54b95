"""The experts that a search merges: all of them, or those that a screening has chosen, once, in the ledger."""

from collections.abc import Mapping
from typing import Any

from evomerge.audit import measure_task_vectors
from evomerge.experiment.experiment import Experiment
from evomerge.experiment.time_limit import keep_for_submission, ledger_deadline, timed_evaluation
from evomerge.ledger import Ledger
from evomerge.report import Display
from evomerge.screening import MergeOptions, Screener, screening_lines
from evomerge.searching import Evaluator
from evomerge.workers import pools


def choose_experts(experiment: Experiment, ledger: Ledger, display: Display, start: float) -> Experiment:
    """The experiment over the experts that stay; they are screened unless the ledger has the record already.

    The experiment itself where it has no more experts than it may merge. The command began at `start`.
    """
    if not experiment.needs_screening:
        return experiment
    if ledger.screening is None:
        record = screen(experiment, ledger, display, start)
        ledger.append_screening(record)
        for line in screening_lines(record):
            display.print_line(line)
    assert ledger.screening is not None
    return experiment.with_experts(ledger.screening["kept"])


def screen(experiment: Experiment, ledger: Ledger, display: Display, start: float) -> dict[str, Any]:
    """The record of a screening of all experts on the search slice.

    Under a limit of hours the slice may end early, and merges are scored only where there is time. The time of a
    submission is kept.
    """
    display.show_phase("task vectors")
    vectors = measure_task_vectors(experiment.family, experiment.experts)
    pool = pools.LazyPool(lambda: experiment.pool(experiment.worker_spec(with_losses=False)))
    try:
        deadline = ledger_deadline(experiment, ledger, start)
        keep_for_submission(experiment, deadline, pool, display)
        display.show_phase("screening")
        evaluator = Evaluator(experiment.scorer, pool, ledger, [display])
        timed = timed_evaluation(experiment, evaluator, ledger, deadline)
        section, made = experiment.config, MergeOptions(experiment.config.model.dtype, experiment.config.seed)
        models = experiment.base, experiment.experts
        return Screener(evaluator, timed, *models, vectors, _weights(experiment), section.screen, made).run()
    finally:
        pool.close()


def _weights(experiment: Experiment) -> Mapping[str, float]:
    """The weights of the tasks that the search maximises; lengths of answers have none."""
    tasks = experiment.scorer.plan.weights
    return {task: weight for task, weight in experiment.objective.weights.items() if task in tasks}
