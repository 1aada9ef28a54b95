"""Weights & Biases: one wandb run for each run folder, which a resumed search continues; can work offline."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from evomerge.schema import Label, OneOf
from evomerge.trackers._identity import run_identity
from evomerge.trackers._metrics import Table, result_metrics

log = logging.getLogger(__name__)

PACKAGE = "wandb"
MODES = ("online", "offline", "disabled")


class WandB:
    """A wandb run whose steps are those of a descent, then generations."""

    def __init__(self, folder: Path, config: Mapping[str, Any], project: str, entity: str | None, mode: str | None):
        import wandb

        self._wandb: Any = wandb
        self._finished = False
        self._run: Any = wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            name=str(config.get("name") or folder.name),
            id=run_identity(folder, "wandb"),
            resume="allow",
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        log.info("wandb run %s", self._run.dir if self._run.offline else self._run.url)
        self._first_step = int(self._run.step)  # a continued run has logged all steps below this one

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, unless the run has them from an earlier session."""
        if step >= self._first_step:
            self._run.log(dict(values), step=step, commit=True)

    def log_result(self, document: Mapping[str, Any], table: Table) -> None:
        """Write verdict, holdout scores and the winner's leads into the run's summary."""
        heads, *rows = table
        summary = {name: document[name] for name in ("verdict", "difference", "best_baseline", "fingerprint")}
        self._run.summary.update(summary | result_metrics(table))
        data = [[None if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows]
        self._run.summary["holdout"] = self._wandb.Table(columns=list(heads), data=data)
        self._finished = True

    def log_files(self, files: Sequence[Path]) -> None:
        """Store the files as one artifact; in a run that is disabled this does nothing."""
        artifact = self._wandb.Artifact(f"evomerge-{self._run.id}", type="merge")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        """End the run; it is marked as failed if the search did not finish."""
        self._run.finish(exit_code=0 if self._finished else 1)


def create(
    folder: Path,
    config: Mapping[str, Any],
    *,
    project: Label = "evomerge",
    entity: Label | None = None,
    mode: Annotated[str, OneOf(MODES)] | None = None,
) -> WandB:
    """A backend on the folder's wandb run, which may be new; with `mode` None, WANDB_MODE decides."""
    return WandB(folder, config, project, entity, mode)
