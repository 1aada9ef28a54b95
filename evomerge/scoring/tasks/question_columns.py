"""The columns of a file of questions: which is the question, the context, the answer, and which are the choices."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ConfigError
from evomerge.scoring.tasks.question_file import Row, text_of

QUESTION = ("question", "query", "prompt", "input", "instruction", "problem", "sentence", "text")
CONTEXT = ("context", "passage", "article", "document")
CHOICES = ("choices", "options", "answer_choices", "candidates")
INDEX = ("gold", "label", "answer_idx", "answer_index", "correct_idx", "correct_index")  # numbers in these count from 0
ANSWERS = (
    *("answer", "target", *INDEX, "correct", "correct_answer", "right_answer", "correct_option", "answerkey"),
    *("answer_key", "key", "solution", "output", "response", "completion", "reference"),
)
KIND = "eval_type"  # of a row, in files of the LLM Merging competition
KINDS = ("multiple_choice", "generation")
# One column for each choice: a, b, c; option_a, choice1, ending0, opa, …
CHOICE_COLUMN = re.compile(r"(?:(?:option|choice|answer|ending|op|sol)s?)?_?([a-z]|\d{1,2})")
STARTS = ("a", "0", "1")
MARK = re.compile(r"\(?([A-Za-z]|\d{1,2})[).:]?")  # an answer that can only be the name of a choice


@dataclass(frozen=True)
class Columns:
    """The names of the columns; `choices` is one column of lists, or one for each choice, or nothing.

    `are_prompts` says that each question is a whole prompt, and that the numbers of choices count from 0, as in the
    files of the LLM Merging competition.
    """

    question: str
    answer: str
    context: str | None
    choices: tuple[str, ...]
    are_prompts: bool = False


def find_columns(path: Path, rows: Sequence[Row]) -> Columns:
    """The columns of a file, by the names in all of its rows; ConfigError names what is missing and what is there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    question = _column(path, "question", QUESTION, names)
    answer = _column(path, "answer", ANSWERS, names)
    context = next((name for name in CONTEXT if name in names and name not in (question, answer)), None)
    if question == "input" and "instruction" in names:  # the columns of Alpaca
        context = context or "instruction"
    lists = next((name for name in CHOICES if name in names), None)
    choices = (lists,) if lists else _choice_columns(names, {question, answer})
    if not any(text_of(row, name) for row in rows for name in choices):
        choices = ()
    others = [name for name in names if name not in (question, answer, context, "id", KIND)]
    if not choices and len(others) > 1 and all(MARK.fullmatch(text_of(row, answer)) for row in rows):
        raise ConfigError(
            f"{path}: the answers are letters or numbers, and no columns of choices are known; it has "
            f"{', '.join(others)}; name them a, b, c, …"
        )
    return Columns(question, answer, context, choices, are_prompts=KIND in names)


def _column(path: Path, what: str, known: Sequence[str], names: Sequence[str]) -> str:
    found = next((name for name in known if name in names), None)
    if found is None:
        raise ConfigError(f"{path}: no column for the {what}; it has {', '.join(names)}, and needs {', '.join(known)}")
    return found


def _choice_columns(names: Sequence[str], taken: set[str]) -> tuple[str, ...]:
    """The columns of single choices, in order: a run a, b, … or 1, 2, … or 0, 1, … of at least two."""
    by_mark: dict[str, str] = {}
    for name in names:
        match = CHOICE_COLUMN.fullmatch(name)
        if match and name not in taken:
            by_mark.setdefault(match[1] if match[1].isalpha() else str(int(match[1])), name)
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
