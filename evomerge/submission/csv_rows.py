"""CSV files in the contest's format, read and written by pandas as the starter kit does.

pandas guesses a type for each column and reads texts such as NA and None as missing, so a program that reads the text
as it is written would have other inputs.
"""

import ast
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from evomerge.errors import TaskError

COLUMNS = ("id", "input", "answer_choices", "eval_type")
EVAL_TYPES = ("multiple_choice", "generation")


@dataclass(frozen=True)
class Row:
    """A row: `choices` is empty for generation, `raw_choices` is the text of the cell; `target` is None if unknown."""

    id: Any
    input: str
    choices: tuple[str, ...] = ()
    raw_choices: str = ""
    target: str | None = None


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; TaskError names the file and the first row that the contest's programs could not predict."""
    try:
        records: list[dict[str, Any]] = pandas.read_csv(path).to_dict("records")
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file; give a CSV file of inputs") from None
    except Exception as error:  # a parser's errors, encodings, a folder in the place of a file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TaskError(f"{path}: not a CSV file ({reason}); save it as UTF-8 with a header") from None
    if not records:
        raise TaskError(f"{path}: no rows; give a file with inputs")
    if missing := [column for column in COLUMNS if column not in records[0]]:
        raise TaskError(f"{path}: no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    rows = [_row(record, f"{path}: row {number}") for number, record in enumerate(records, 1)]
    first: dict[str, int] = {}  # id → the row that has it
    for number, row in enumerate(rows, 1):
        other = first.setdefault(str(row.id), number)
        if other != number:
            raise TaskError(f"{path}: row {number}: has the id {row.id} of row {other}; give each row its own")
    return rows


def _row(record: dict[str, Any], where: str) -> Row:
    kind = record["eval_type"]
    if _is_missing(record["id"]):
        raise TaskError(f"{where}: no id; give one")
    if kind not in EVAL_TYPES:
        raise TaskError(
            f"{where}: eval_type is {'empty' if _is_missing(kind) else kind}; give {' or '.join(EVAL_TYPES)}"
        )
    if _is_missing(record["input"]) or not str(record["input"]).strip():
        raise TaskError(f"{where}: the input is empty; give a text")
    target = record.get("target")
    row = Row(record["id"], str(record["input"]), target=None if _is_missing(target) else str(target))
    if kind == "generation":
        return row
    raw = record["answer_choices"]
    if _is_missing(raw):
        raise TaskError(f"{where}: no answer_choices; give a list of two or more texts")
    return Row(row.id, row.input, _choices(str(raw), where), str(raw), row.target)


def _choices(text: str, where: str) -> tuple[str, ...]:
    listed: Any = None
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        listed = ast.literal_eval(text)
    if (
        not text.startswith("[")
        or not isinstance(listed, list)
        or len(listed) < 2
        or not all(isinstance(choice, str) and choice for choice in listed)
    ):
        short = text if len(text) <= 40 else f"{text[:37]}..."
        raise TaskError(
            f"{where}: answer_choices is {short!r}; give a list of two or more texts, such as ['no', 'yes']"
        )
    return tuple(listed)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value  # pandas' NaN is unequal to itself


def write_predictions(path: Path, rows: Sequence[Row], predictions: Sequence[str]) -> None:
    """Write id, prediction and a dummy field, as the starter kit writes them."""
    table = pandas.DataFrame({"id": [row.id for row in rows], "prediction": list(predictions), "dummy_field": 0})
    table.to_csv(path, columns=["id", "prediction", "dummy_field"], index=False)
