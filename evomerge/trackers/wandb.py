"""Weights & Biases: one wandb run for each run folder, which a resumed search continues; can work offline."""

import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from evomerge.schema import Label, OneOf

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
            id=_identity(folder),
            resume="allow",
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off"),
        )
        self._first_step = int(self._run.step)  # a continued run has logged all steps below this one

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, unless the run has them from an earlier session."""
        if step >= self._first_step:
            self._run.log(dict(values), step=step, commit=True)

    def log_result(self, document: Mapping[str, Any], table: Sequence[Sequence[str | float]]) -> None:
        """Write verdict and holdout scores into the run's summary."""
        heads, *rows = table
        summary = {name: document[name] for name in ("verdict", "difference", "best_baseline", "fingerprint")}
        summary |= {f"holdout/{row[0]}": row[1] for row in rows if not math.isnan(float(row[1]))}
        self._run.summary.update(summary)
        self._run.summary["holdout"] = self._wandb.Table(columns=list(heads), data=[list(row) for row in rows])
        self._finished = True

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


def _identity(folder: Path) -> str:
    """The id of the folder's wandb run, stored in the folder, so that a search in a new folder is a new run."""
    path = folder / "wandb" / "evomerge-id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:12])
    return path.read_text().strip()
