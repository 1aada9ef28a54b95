"""TensorBoard event files in the run's folder: `tensorboard --logdir runs` shows every search."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.trackers._metrics import Table, result_metrics

PACKAGE = "tensorboard"


class TensorBoard:
    """Writes one event file; the steps of earlier files are hidden, because a resumed search logs them again."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=0)
        self._add_block("config", json.dumps(config, indent=2, default=str))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a scalar for each value and flush."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_result(self, document: Mapping[str, Any], table: Table) -> None:
        """Write the holdout table as text, and its numbers as scalars."""
        heads, *rows = table
        lines = [heads, ["---"] * len(heads), *rows]
        self._writer.add_text("holdout", "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines), 0)
        for name, value in result_metrics(table).items():
            self._writer.add_scalar(name, value, 0)

    def log_files(self, files: Sequence[Path]) -> None:
        """Write the recipe as text; event files hold no other files, and the report is beside them."""
        for file in files:
            if file.suffix == ".yaml":
                self._add_block(file.stem, file.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

    def _add_block(self, name: str, text: str) -> None:
        self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), 0)


def create(folder: Path, config: Mapping[str, Any]) -> TensorBoard:
    """A backend that writes into `folder`/tensorboard."""
    return TensorBoard(folder, config)


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.4f}"
