"""What a submission needs beside the run: the files to predict, the convention of predictions, and limits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from evomerge.errors import ConfigError
from evomerge.schema import Count, Label, Location, OneOf

Predict = Literal["right", "kit"]
RESERVED = {"merges", "evomergetensors", "llamaavg", "tinyllamaavg", "flant5avg", "init"}


@dataclass(frozen=True)
class SubmissionConfig:
    """`inputs` are CSV files in the contest's format; `name` is that of the method, a Python identifier.

    `predict` is `right`, by which all tokens of a choice are scored, or `kit`, which gives the predictions of the
    starter kit's own functions. Inputs are truncated to `max_seq_len` tokens, and answers have `max_gen_len`.
    """

    inputs: tuple[Path, ...] = ()
    predict: Predict = "right"
    max_gen_len: int = 64
    max_seq_len: int | None = None
    name: str = "evomerge_merge"

    def __post_init__(self) -> None:
        if self.predict not in get_args(Predict):
            raise ConfigError(f"predict={self.predict}: give right or kit")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name.replace("_", "") in RESERVED:
            raise ConfigError(f"name={self.name}: give small letters, digits and _ that no method of the kit has")
        if self.max_gen_len < 1 or (self.max_seq_len is not None and self.max_seq_len < 1):
            raise ConfigError("max_gen_len and max_seq_len: give numbers of tokens above 0")
        outputs = [output_name(path) for path in self.inputs]
        if twice := next((name for name in outputs if outputs.count(name) > 1), None):
            raise ConfigError(f"inputs: two of them would be written to {twice}; rename one of the files")


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """The section `submission` of an experiment: whether the run ends with a pack, and the keys of `submit`.

    Without `inputs`, the files of questions in the contest's format are predicted.
    """

    pack: bool = False
    inputs: Sequence[Location] = ()
    predict: Annotated[str, OneOf(get_args(Predict))] = "right"
    max_gen_len: Count = 64
    max_seq_len: Count | None = None
    name: Label | None = None

    def submission(self, run: str, files: Sequence[str]) -> SubmissionConfig:
        """What `write_pack` takes, for the run of that name and the files of its tasks."""
        inputs, name = tuple(map(Path, self.inputs or files)), self.name or method_name(run)
        predict: Predict = "kit" if self.predict == "kit" else "right"
        return SubmissionConfig(inputs, predict, self.max_gen_len, self.max_seq_len, name)


def method_name(run: str) -> str:
    """A name of a method made from that of a run's folder."""
    return "evomerge_" + (re.sub(r"[^a-z0-9]+", "_", run.lower()).strip("_") or "merge")


def output_name(path: Path) -> str:
    """The name of the file of predictions: that of the input, or submission.csv for the contest's test.csv."""
    return "submission.csv" if path.name == "test.csv" else path.name
