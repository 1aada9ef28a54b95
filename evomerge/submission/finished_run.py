"""What a submission reads of a finished run: its recipe, its result, and how it held the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.paths import RECIPE, refuse_unfinished
from evomerge.run_files import read_config_file, read_result


@dataclass(frozen=True)
class FinishedRun:
    """`config` and `result` are the contents of config.yaml and result.json."""

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "FinishedRun":
        """The run in a folder; RunError where it has not finished or a file is damaged."""
        refuse_unfinished(folder)
        return cls(folder, read_config_file(folder), read_result(folder))

    @property
    def recipe(self) -> Path:
        """The winner's recipe."""
        return self.folder / RECIPE

    @property
    def gpu_bytes(self) -> int | None:
        """The memory of the GPU that the run's budget allows."""
        limit = (self.config.get("budget") or {}).get("gpu_gb")
        return None if limit is None else int(1e9 * limit)

    @property
    def model(self) -> Mapping[str, Any]:
        """How the run held the live model: device, dtype, batch_tokens and others."""
        return dict(self.config.get("model") or {})
