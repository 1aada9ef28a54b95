"""The numbers of a running search for the terminal's live display."""

from collections.abc import Callable

from evomerge.experiment.experiment import Experiment
from evomerge.report import SearchStatus
from evomerge.searching import Evaluator, RemainingBudget
from evomerge.workers.pools import Pool


def search_status(
    experiment: Experiment, remaining: RemainingBudget, evaluator: Evaluator, pool: Pool
) -> Callable[[], SearchStatus]:
    """A function that returns the status at the time of its call."""
    return lambda: SearchStatus(
        spent=remaining.spent,
        saved=remaining.saved_by_races,
        wall=evaluator.scoring_seconds,
        busy=evaluator.busy_seconds,
        writing=evaluator.write_seconds,
        workers=pool.workers,
        tree_share=experiment.tree_share,
    )
