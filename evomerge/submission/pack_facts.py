"""Everything that the texts of a pack are made from."""

from dataclasses import dataclass

from evomerge.submission.config import SubmissionConfig
from evomerge.submission.finished_run import FinishedRun
from evomerge.submission.frozen_table import FrozenTable
from evomerge.submission.merged_model import RunMerge
from evomerge.submission.validation import FileScores


@dataclass(frozen=True)
class PackFacts:
    """`seconds` are those of merging and predicting on this machine."""

    config: SubmissionConfig
    run: FinishedRun
    merged: RunMerge
    table: FrozenTable
    scores: tuple[FileScores, ...]
    seconds: float
