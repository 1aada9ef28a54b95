"""CSV files as a task reads them: every column is text as it is written, so "007", "1.50", "NA" and "" stay the same.

pandas would guess a type for each column, and the guess depends on the other rows.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import pandas
from lm_eval.api.task import ConfigurableTask

from evomerge.schema import FilePath

AS_WRITTEN = {"keep_default_na": False, "na_filter": False}  # no text stands for a missing value
INDEX = re.compile(r"\s*\d+\s*")


def read_as_text(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with options that read every column of its CSV files as text; other specs as they are.

    Files that are not on this machine, or that cannot be read, are left to the loader of data sets and its errors.
    """
    given = spec.get("dataset_kwargs")
    if spec.get("dataset_path") != "csv" or not isinstance(given, Mapping) or "features" in given:
        return dict(spec)
    options = {**AS_WRITTEN, **given}
    with suppress(Exception):
        builder = datasets.load_dataset_builder("csv", **options)
        files = [file for listed in builder.config.data_files.values() for file in listed]
        columns = _columns(files, builder.config.pd_read_csv_kwargs)
        if columns:
            options["features"] = datasets.Features({name: datasets.Value("string") for name in columns})
    return {**spec, "dataset_kwargs": options}


def _columns(files: Sequence[str], options: Mapping[str, Any]) -> list[str] | None:
    """The names in the header of the first file; None if the files are elsewhere or have no names."""
    if not files or not all(FilePath().allows(str(file)) and Path(file).is_file() for file in files):
        return None
    header = list(pandas.read_csv(files[0], **{**options, "nrows": 0, "chunksize": None}).columns)
    return header if all(isinstance(name, str) for name in header) else None


def read_numbers_as_places(task: ConfigurableTask) -> None:
    """Where the target is a column of whole numbers that are not texts of choices, they are places of choices.

    lm-eval takes a number as a place and a text as a choice, and a column that is read as text has no numbers.
    """
    column, choices = task.config.doc_to_target, task.config.doc_to_choice
    if task.OUTPUT_TYPE != "multiple_choice" or choices is None or column not in task.features:
        return
    docs = list(task.eval_docs)
    if not all(isinstance(doc[column], str) and INDEX.fullmatch(doc[column]) for doc in docs):
        return
    if column.isidentifier() and any(doc[column] not in task.doc_to_choice(doc) for doc in docs):
        task.config.doc_to_target = f"{{{{ {column} | int }}}}"
