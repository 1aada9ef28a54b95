"""A screening alone, in the folder of a run: a search in that folder later finds its scores in the ledger."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from evomerge.experiment.chosen_experts import screen
from evomerge.experiment.experiment import from_config
from evomerge.experiment.run import open_ledger
from evomerge.experiment.run_log import run_log
from evomerge.report import Display


def screen_experiment(config: Mapping[str, Any], folder: Path, console: Console) -> Mapping[str, Any]:
    """The record of a screening, from the ledger or new; the ledger keeps it where the search is to be screened.

    With at most as many experts as the search may merge, the record is only a proposal.
    """
    start = time.monotonic()
    experiment = from_config(config, folder)
    with run_log(folder), Display(console, experiment.config.budget.evaluations) as display:
        display.show_phase("tasks, models")
        experiment.check()
        ledger = open_ledger(experiment, config, folder, start)
        try:
            if ledger.screening is not None:
                return ledger.screening
            record = screen(experiment, ledger, display, start)
            if experiment.needs_screening:
                ledger.append_screening(record)
            ledger.mark_time()
            return record
        finally:
            ledger.close()
