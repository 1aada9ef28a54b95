"""Rows of a user's own file: CSV with any usual separator, TSV, JSON Lines or JSON; the values of CSV stay text."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, remedy_for
from evomerge.parsing import parse_json

Row = Mapping[str, Any]
SEPARATORS = ",;\t|"
QUESTION_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


def read_rows(path: Path) -> list[Row]:
    """The rows by column name, lower-case; ConfigError names the file and the row that cannot be read."""
    if path.suffix.lower() not in QUESTION_SUFFIXES:
        raise ConfigError(f"{path}: a file of questions is one of {', '.join(QUESTION_SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a CSV, TSV or JSON file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {remedy_for(error)}") from None
    tabular = path.suffix.lower() in (".csv", ".tsv")
    rows = list(_csv_rows(path, text) if tabular else _json_rows(path, text))
    if not rows:
        raise ConfigError(f"{path}: no rows; give a file with a row for each question")
    return [{_name(str(name)): value for name, value in row.items()} for row in rows]


def text_of(row: Row, column: str) -> str:
    """The text of a cell, empty where the row has none."""
    return plain_text(row.get(column))


def plain_text(value: Any) -> str:
    """A value as text without outer spaces: the first of a list, a JSON number as it is written, null as nothing."""
    if isinstance(value, list) and value:
        value = value[0]
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _name(text: str) -> str:
    """A column's name in one spelling: `Correct Answer`, `correct-answer` and `A)` as correct_answer and a."""
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_")


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    """Rows of a table with a header; the separator is the one that occurs most often in the header."""
    header = text.lstrip().partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(SEPARATORS, key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] | None = None
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = _header(path, cells)
            elif len(cells) != len(names):
                raise ConfigError(
                    f"{path}: line {lines.line_num} has {len(cells)} cells, the header {len(names)}; "
                    f"put text that holds '{separator}' or a line break in double quotes"
                )
            else:
                yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{path}: line {lines.line_num}: {error}; check its double quotes") from None


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [_name(cell) for cell in cells]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{path}: two columns are named '{twice}'; rename one")
    return names


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    if path.suffix.lower() == ".json":
        yield from _objects(path, enumerate(_list(path, text), 1), "entry")
        return
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    yield from _objects(path, ((number, _parsed(path, number, line)) for number, line in lines), "line")


def _list(path: Path, text: str) -> list[Any]:
    try:
        found = parse_json(text, numbers_as_text=True)
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); a file of JSON lines is named .jsonl") from None
    if not isinstance(found, list):
        raise ConfigError(f"{path}: not a list of questions; give [{{…}}, {{…}}]")
    return found


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return parse_json(line, numbers_as_text=True)
    except ValueError as error:
        raise ConfigError(f"{path}: line {number} is not JSON ({error})") from None


def _objects(path: Path, numbered: Iterator[tuple[int, Any]], noun: str) -> Iterator[Row]:
    for number, value in numbered:
        if not isinstance(value, dict):
            raise ConfigError(f'{path}: {noun} {number} is not an object; give {{"question": …, "answer": …}}')
        yield value
