"""Questions of a user's own rows: the choices of each, and which of them its answer names."""

import ast
import json
import logging
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.scoring.tasks.question_columns import INDEX, KIND, KINDS, Columns, find_columns
from evomerge.scoring.tasks.question_file import Row, plain_text, read_rows, text_of

log = logging.getLogger(__name__)

LIMIT = 60  # characters of a value in a message


@dataclass(frozen=True)
class Question:
    """One question: `context` is empty where the file has none; `choices` is empty for an answer in words.

    `is_prompt` says that `text` is given to a model as it is.
    """

    context: str
    text: str
    choices: tuple[str, ...]
    answer: str
    gold: int = -1
    is_prompt: bool = False


def read_questions(path: Path, kind: str | None = None) -> list[Question]:
    """The questions of a file; ConfigError names the column that is missing or the row that is wrong.

    In a file whose rows have an `eval_type`, `kind` is the one that is read; None where all rows are of one.
    """
    numbered = dict(enumerate(read_rows(path), 1))
    columns = find_columns(path, list(numbered.values()))
    if columns.are_prompts:
        numbered, columns = _of_kind(path, numbered, columns, kind)
    elif kind is not None:
        raise ConfigError(f"{path}: rows={kind}: it has no column {KIND}; drop rows")
    texts = _filled(path, numbered, columns.question)
    if columns.are_prompts:  # the starter kit leaves outer white space as it is
        texts = [str(row[columns.question]) for row in numbered.values()]
    contexts = [text_of(row, columns.context) if columns.context else "" for row in numbered.values()]
    if not columns.choices:
        rows_of_text = zip(contexts, texts, _filled(path, numbered, columns.answer), strict=True)
        found = [Question(context, text, (), answer) for context, text, answer in rows_of_text]
    else:
        listed = [_choices(path, number, row, columns) for number, row in numbered.items()]
        golds = _golds(path, columns, numbered, listed)
        found = [
            Question(context, text, choices.texts, choices.texts[gold], gold)
            for context, text, choices, gold in zip(contexts, texts, listed, golds, strict=True)
        ]
    return _different(path, [replace(question, is_prompt=columns.are_prompts) for question in found])


def kinds_of_rows(path: Path) -> list[str]:
    """The values of `eval_type` in a file, in the order of its rows; empty where it has no such column."""
    return list(dict.fromkeys(text_of(row, KIND) for row in read_rows(path) if KIND in row))


def _of_kind(
    path: Path, numbered: Mapping[int, Row], columns: Columns, kind: str | None
) -> tuple[dict[int, Row], Columns]:
    """The rows of a kind with their numbers, and the columns that matter for it."""
    kinds = {number: text_of(row, KIND) for number, row in numbered.items()}
    for number, found in kinds.items():
        if found not in KINDS:
            raise ConfigError(f"{path}: row {number}: {KIND} is {_cut(found)!r}; give {' or '.join(KINDS)}")
    present = list(dict.fromkeys(kinds.values()))
    if kind is None and len(present) > 1:
        raise ConfigError(f"{path}: has rows of two kinds; make two tasks of it, with rows={' and rows='.join(KINDS)}")
    if kind is not None and kind not in present:
        raise ConfigError(f"{path}: no row has {KIND}={kind}; its rows have {', '.join(present)}")
    wanted = kind or present[0]
    if wanted == "generation":
        columns = replace(columns, choices=())
    elif not columns.choices:
        raise ConfigError(f"{path}: no column for the choices; name it answer_choices")
    return {number: row for number, row in numbered.items() if kinds[number] == wanted}, columns


def _filled(path: Path, numbered: Mapping[int, Row], column: str) -> list[str]:
    """The texts of a column that may not be empty."""
    texts = {number: text_of(row, column) for number, row in numbered.items()}
    if empty := next((number for number, text in texts.items() if not text), None):
        raise ConfigError(f"{path}: row {empty} has no {column}; fill it in, or drop the row")
    return list(texts.values())


def _different(path: Path, questions: Sequence[Question]) -> list[Question]:
    """The questions without repetitions, which would count as independent items; a warning says how many there are."""
    found: dict[tuple[str, str, tuple[str, ...]], Question] = {}
    for question in questions:
        found.setdefault((question.context, question.text, question.choices), question)
    if repeated := len(questions) - len(found):
        log.warning("%s: %d rows ask the same as an earlier row; they are left out", path, repeated)
    return list(found.values())


@dataclass(frozen=True)
class _Choices:
    texts: tuple[str, ...]
    labels: tuple[str, ...]  # the names that an answer may use: A, B, … or the file's own
    places: tuple[int, ...]  # of the choices among all columns, as empty cells count for numbers

    @classmethod
    def of(cls, texts: Sequence[str], labels: Sequence[str] | None = None) -> "_Choices":
        """The texts that are not empty."""
        filled = tuple(place for place, text in enumerate(texts) if text)
        names = labels or [*string.ascii_uppercase, *map(str, range(27, len(texts) + 1))]
        return cls(tuple(texts[i] for i in filled), tuple(names[i] for i in filled), filled)


def _choices(path: Path, number: int, row: Row, columns: Columns) -> _Choices:
    found = _cells(row, columns.choices)
    if len(found.texts) < 2:
        where = ", ".join(columns.choices)
        raise ConfigError(f"{path}: row {number} has no list of two or more choices in {where}; fill it in or drop it")
    if len(set(found.texts)) < len(found.texts):
        raise ConfigError(f"{path}: row {number} has two equal choices; make them differ, or drop the row")
    return found


def _cells(row: Row, names: Sequence[str]) -> _Choices:
    """The choices in one column of lists, or in a column for each; empty cells are no choices."""
    if len(names) == 1:
        return _listed(row.get(names[0]))
    return _Choices.of([text_of(row, name) for name in names])


def _listed(value: Any) -> _Choices:
    """The choices of one cell: a list, its text as JSON or Python, lines, or a mapping of texts and labels."""
    value = _literal(value) if isinstance(value, str) else value
    if isinstance(value, list | tuple) and all(isinstance(entry, Mapping) and "text" in entry for entry in value):
        value = {"text": [entry["text"] for entry in value], "label": [entry.get("label") for entry in value]}
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
        if not isinstance(texts, list):  # {"A": "…", "B": "…"}
            texts, labels = list(value.values()), list(value)
        if isinstance(labels, list) and len(labels) == len(texts) and None not in labels:
            return _Choices.of([*map(plain_text, texts)], [*map(plain_text, labels)])
        value = texts
    return _Choices.of([*map(plain_text, value)] if isinstance(value, list | tuple) else [])


def _literal(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return [line for line in text.splitlines() if line.strip()]


def _golds(path: Path, columns: Columns, numbered: Mapping[int, Row], listed: Sequence[_Choices]) -> list[int]:
    """The place of each right choice, by the one reading of the column that fits all rows."""
    column = columns.answer
    answers = {number: text_of(row, column) for number, row in numbered.items()}
    pairs = list(zip(answers.values(), listed, strict=True))
    firsts = [first for first in _possible_firsts(pairs) if not (first and columns.are_prompts)]
    numbers = [_from(first) for first in firsts[:1]]
    numbers_first = columns.are_prompts or column in INDEX
    ordered = [*numbers, _by_text, _by_label] if numbers_first else [_by_text, _by_label, *numbers]
    tried = [[reading(answer, choices) for answer, choices in pairs] for reading in ordered]
    fitting = next((place for place, found in enumerate(tried) if None not in found), None)
    if fitting is not None and ordered[fitting] in numbers and len(firsts) == 2 and not numbers_first:
        raise ConfigError(
            f"{path}: {column} holds numbers, and it cannot be told whether the first choice is 0 or 1; "
            f"write letters, or name the column 'gold' if the first choice is 0"
        )
    if fitting is not None:
        return [place for place in tried[fitting] if place is not None]
    place = min(tried, key=lambda places: places.count(None)).index(None)
    number, answer = list(answers.items())[place]
    raise ConfigError(
        f"{path}: row {number}: {column} {_cut(answer)!r} names none of its choices "
        f"({_cut(', '.join(listed[place].texts))}); give the text, the letter or the number of one"
    )


_Reading = Callable[[str, _Choices], int | None]


def _by_text(answer: str, choices: _Choices) -> int | None:
    return choices.texts.index(answer) if answer in choices.texts else None


def _by_label(answer: str, choices: _Choices) -> int | None:
    bare = answer.strip("().: ").upper()
    labels = [label.upper() for label in choices.labels]
    return labels.index(bare) if bare in labels else None


def _possible_firsts(pairs: Sequence[tuple[str, _Choices]]) -> list[int]:
    """What the number of the first choice may be, 0 or 1 or both; nothing where an answer is no number."""
    if not all(re.fullmatch(r"\d{1,2}(\.0)?", answer) for answer, _ in pairs):
        return []
    numbered = [(int(float(answer)), choices.places) for answer, choices in pairs]
    return [first for first in (0, 1) if all(number - first in places for number, places in numbered)]


def _from(first: int) -> _Reading:
    return lambda answer, choices: choices.places.index(int(float(answer)) - first)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"
