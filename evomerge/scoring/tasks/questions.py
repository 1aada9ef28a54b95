"""Questions of a user's own rows: which column is the question, which are the choices, and what an answer names."""

import ast
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.scoring.tasks.question_file import Row, read_rows

QUESTION = ("question", "query", "prompt", "input", "instruction", "problem", "sentence", "text")
CONTEXT = ("context", "passage", "article", "document")
CHOICES = ("choices", "options", "answer_choices", "candidates")
INDEX = ("gold", "label", "answer_idx", "answer_index", "correct_idx", "correct_index")  # numbers in these count from 0
ANSWER = ("answer", "target", *INDEX, "correct", "correct_answer", "answerkey", "answer_key", "solution", "output")
ANSWERS = (*ANSWER, "response", "completion", "reference")
# One column for each choice: a, b, c; option_a, choice1, ending0, opa, …
CHOICE_COLUMN = re.compile(r"(?:(?:option|choice|answer|ending|op|sol)s?)?[ _-]?([a-z]|\d{1,2})")
STARTS = ("a", "0", "1")
LIMIT = 60  # characters of a value in a message


@dataclass(frozen=True)
class Question:
    """One question: `context` is empty where the file has none; `choices` is empty for an answer in words."""

    context: str
    text: str
    choices: tuple[str, ...]
    answer: str
    gold: int = -1


@dataclass(frozen=True)
class _Columns:
    question: str
    answer: str
    context: str | None
    choices: tuple[str, ...]  # one column of lists, or a column for each choice; none for answers in words


def read_questions(path: Path) -> list[Question]:
    """The questions of a file; ConfigError names the column that is missing or the row that is wrong."""
    rows = read_rows(path)
    columns = _columns(path, rows)
    texts, contexts = [_text(row, columns.question) for row in rows], [_text(row, columns.context) for row in rows]
    for number, text in enumerate(texts, 1):
        if not text:
            raise ConfigError(f"{path}: row {number} has no {columns.question}; fill it in, or drop the row")
    answers = [_text(row, columns.answer) for row in rows]
    if not columns.choices:
        for number, answer in enumerate(answers, 1):
            if not answer:
                raise ConfigError(f"{path}: row {number} has no {columns.answer}; fill it in, or drop the row")
        rows_of_text = zip(contexts, texts, answers, strict=True)
        return [Question(context, text, (), answer) for context, text, answer in rows_of_text]
    listed = [_choices(path, number, row, columns) for number, row in enumerate(rows, 1)]
    golds = _golds(path, columns.answer, answers, listed)
    return [
        Question(context, text, choices.texts, choices.texts[gold], gold)
        for context, text, choices, gold in zip(contexts, texts, listed, golds, strict=True)
    ]


def _columns(path: Path, rows: Sequence[Row]) -> _Columns:
    names = list(rows[0])
    found = _first(names, QUESTION), _first(names, ANSWERS)
    question, answer = found
    if question is None or answer is None:
        missing = "question" if question is None else "answer"
        known = QUESTION if question is None else ANSWERS
        raise ConfigError(
            f"{path}: no column for the {missing}; it has {', '.join(names)}, and needs {', '.join(known[:6])} or so"
        )
    lists = _first(names, CHOICES)
    choices = (lists,) if lists else _choice_columns(names, {question, answer})
    used = any(_cells(row, choices).texts for row in rows)  # empty in every row: answers in words
    return _Columns(question, answer, _first(names, CONTEXT), choices if used else ())


def _first(names: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)


def _choice_columns(names: Sequence[str], taken: set[str]) -> tuple[str, ...]:
    """The columns of single choices, in order: a run a, b, … or 1, 2, … or 0, 1, … of at least two."""
    by_mark: dict[str, str] = {}
    for name in names:
        match = CHOICE_COLUMN.fullmatch(name)
        if match and name not in taken:
            by_mark.setdefault(match[1], name)
    for start in STARTS:
        marks = string.ascii_lowercase if start == "a" else [str(number) for number in range(int(start), 100)]
        run: list[str] = []
        for mark in marks:
            if mark not in by_mark:
                break
            run.append(by_mark[mark])
        if len(run) > 1:
            return tuple(run)
    return ()


@dataclass(frozen=True)
class _Choices:
    texts: tuple[str, ...]
    labels: tuple[str, ...]  # the names that an answer may use: A, B, … or the file's own


def _choices(path: Path, number: int, row: Row, columns: _Columns) -> _Choices:
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
    cells = [_text(row, name) for name in names]
    filled = [place for place, cell in enumerate(cells) if cell]
    return _Choices(tuple(cells[i] for i in filled), tuple(string.ascii_uppercase[i] for i in filled))


def _listed(value: Any) -> _Choices:
    """The choices of one cell: a list, its text as JSON or Python, lines, or a mapping of texts and labels."""
    value = _literal(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
        if not isinstance(texts, list):  # {"A": "…", "B": "…"}
            texts, labels = list(value.values()), list(value)
        if isinstance(labels, list) and len(labels) == len(texts):
            return _Choices(tuple(map(_plain, texts)), tuple(map(_plain, labels)))
        value = texts
    texts = tuple(map(_plain, value)) if isinstance(value, list | tuple) else ()
    return _Choices(texts, tuple(string.ascii_uppercase[: len(texts)]))


def _literal(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return [line for line in text.splitlines() if line.strip()]


def _golds(path: Path, column: str, answers: Sequence[str], listed: Sequence[_Choices]) -> list[int]:
    """The place of each right choice, by the one reading of the column that fits all rows."""
    pairs = list(zip(answers, listed, strict=True))
    firsts = _possible_firsts(pairs)
    numbers = [_from(first) for first in firsts[:1]]
    ordered = [*numbers, _by_text, _by_label] if column in INDEX else [_by_text, _by_label, *numbers]
    tried = [[reading(answer, choices) for answer, choices in pairs] for reading in ordered]
    fitting = next((place for place, found in enumerate(tried) if None not in found), None)
    if fitting is not None and ordered[fitting] in numbers and len(firsts) == 2 and column not in INDEX:
        raise ConfigError(
            f"{path}: {column} holds numbers, and it cannot be told whether the first choice is 0 or 1; "
            f"write letters, or name the column 'gold' if the first choice is 0"
        )
    if fitting is not None:
        return [place for place in tried[fitting] if place is not None]
    number = min(tried, key=lambda places: places.count(None)).index(None) + 1
    raise ConfigError(
        f"{path}: row {number}: {column} {_cut(answers[number - 1])!r} names none of its choices "
        f"({_cut(', '.join(listed[number - 1].texts))}); give the text, the letter or the number of one"
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
    places = [(int(float(answer)), len(choices.texts)) for answer, choices in pairs]
    return [first for first in (0, 1) if all(0 <= number - first < size for number, size in places)]


def _from(first: int) -> _Reading:
    return lambda answer, choices: int(float(answer)) - first


def _text(row: Row, column: str | None) -> str:
    return "" if column is None else _plain(row.get(column))


def _plain(value: Any) -> str:
    """A cell as text without outer spaces; a JSON number as it is written, null as nothing."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"
