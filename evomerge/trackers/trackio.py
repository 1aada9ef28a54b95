"""trackio: one run for each run folder, on this machine or in a Space of the Hugging Face hub."""

import importlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.atomic import write_atomically
from evomerge.schema import Label
from evomerge.trackers._identity import run_identity
from evomerge.trackers._metrics import Table, result_metrics

log = logging.getLogger(__name__)

PACKAGE = "trackio"
COLOURS = "\x1b\\[[0-9;]*m"
PRINTING = ("trackio", "trackio.run", "trackio.utils")  # modules that print lines


class Trackio:
    """A trackio run whose steps are those of a descent, then generations."""

    def __init__(self, folder: Path, config: Mapping[str, Any], project: str, space: str | None) -> None:
        import trackio

        for name in PRINTING:
            importlib.import_module(name).print = _log_line  # type: ignore[attr-defined]  # they have no setting for it
        self._trackio: Any = trackio
        name = (
            f"{config.get('name') or folder.name}-{run_identity(folder, 'trackio')[:6]}"  # trackio finds runs by name
        )
        quiet: dict[str, Any] = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self._run: Any = trackio.init(project, name, space_id=space, config=dict(config), resume="allow", **quiet)
        self._first_step = int(self._run._next_step)  # a continued run has logged all steps below this one
        self._step = self._first_step
        self._logged = folder / "trackio" / "evomerge-result"  # the fingerprint whose result the run has

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, unless the run has them from an earlier session."""
        if step >= self._first_step:
            self._run.log(dict(values), step=step)
            self._step = step + 1

    def log_result(self, document: Mapping[str, Any], table: Table) -> None:
        """Log verdict, holdout scores, the winner's leads and the table at the step after the last."""
        import pandas

        winner = str(document["fingerprint"])
        if self._first_step and self._logged.is_file() and self._logged.read_text() == winner:
            return  # the command of a finished search was repeated
        heads, *rows = table
        data = [[None if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows]
        values: dict[str, Any] = {**result_metrics(table), "verdict": document["verdict"]}
        values["holdout"] = self._trackio.Table(dataframe=pandas.DataFrame(data, columns=list(heads)))
        self._run.log(values, step=self._step)
        write_atomically(self._logged, winner)

    def log_files(self, files: Sequence[Path]) -> None:
        """Store each file as an artifact of the run."""
        for file in files:
            self._run.log_artifact(str(file), name=file.stem, type="merge")

    def close(self) -> None:
        """Write what is pending."""
        self._run.finish()


def create(
    folder: Path, config: Mapping[str, Any], *, project: Label = "evomerge", space: Label | None = None
) -> Trackio:
    """A backend on the folder's trackio run, which may be new; with `space` None it is on this machine."""
    return Trackio(folder, config, project, space)


def _log_line(*words: object, **settings: object) -> None:
    """The `print` of trackio's modules."""
    log.info("%s", re.sub(COLOURS, "", " ".join(map(str, words))).strip())
