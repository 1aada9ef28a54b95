"""TensorBoard event files in the run's folder: `tensorboard --logdir runs` shows every search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = "tensorboard"


class TensorBoard:
    """One writer; a resumed search hides the steps of the writers before it and writes them again."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar for each value, on the disk at once."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def result(self, document: Mapping[str, Any], table: Sequence[Sequence[str | float]]) -> None:
        """The holdout table as text, and each model's holdout score as a scalar."""
        heads, *rows = table
        lines = [heads, ["---"] * len(heads), *rows]
        self._writer.add_text("holdout", "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines), 0)
        for label, score, *_ in rows:
            self._writer.add_scalar(f"holdout/{label}", score, 0)

    def close(self) -> None:
        """End the event file."""
        self._writer.close()


def create(folder: Path, config: Mapping[str, Any]) -> TensorBoard:
    """A writer into `folder`/tensorboard."""
    return TensorBoard(folder)


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"
