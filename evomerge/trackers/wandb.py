"""Weights & Biases: one run for one run folder, continued when the search is resumed; needs no network when offline."""

import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from evomerge.schema import Label, OneOf

PACKAGE = "wandb"
MODES = ("online", "offline", "disabled")


class WandB:
    """A wandb run whose steps are generations."""

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
        self._first = int(self._run.step)  # a continued run has the steps below this one

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step that the run does not have yet."""
        if step >= self._first:
            self._run.log(dict(values), step=step, commit=True)

    def result(self, document: Mapping[str, Any], table: Sequence[Sequence[str | float]]) -> None:
        """Verdict and holdout scores in the run's summary."""
        heads, *rows = table
        found = {name: document[name] for name in ("verdict", "difference", "best_baseline", "fingerprint")}
        found |= {f"holdout/{row[0]}": row[1] for row in rows if not math.isnan(float(row[1]))}
        self._run.summary.update(found)
        self._run.summary["holdout"] = self._wandb.Table(columns=list(heads), data=[list(row) for row in rows])
        self._finished = True

    def close(self) -> None:
        """End the run, as failed where the search did not finish."""
        self._run.finish(exit_code=0 if self._finished else 1)


def create(
    folder: Path,
    config: Mapping[str, Any],
    *,
    project: Label = "evomerge",
    entity: Label | None = None,
    mode: Annotated[str, OneOf(MODES)] | None = None,
) -> WandB:
    """A new wandb run, or this folder's own where it has one; `mode` null leaves the choice to WANDB_MODE."""
    return WandB(folder, config, project, entity, mode)


def _identity(folder: Path) -> str:
    """The folder's wandb id: kept in it, so that a search begun afresh is a run of its own."""
    path = folder / "wandb" / "evomerge-id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:12])
    return path.read_text().strip()
