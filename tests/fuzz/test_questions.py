"""Files of a user's questions: read, or refused in a line with the file's name; a number keeps its spelling."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.scoring.tasks.question_file import read_rows, text_of
from evomerge.scoring.tasks.questions import read_questions
from tests.fuzz.budget import inputs
from tests.fuzz.outcomes import REFUSED, outcome
from tests.fuzz.values import NUMERALS, changed, is_writable, torn

ROWS: list[dict[str, Any]] = [
    {"question": "What is 1 + 1?", "choices": ["1", "2", "3"], "answer": "B"},
    {"question": "What is 2 + 2?", "choices": ["3", "4", "5"], "answer": "B", "context": "sums"},
]
COLUMNS: list[dict[str, Any]] = [
    {"question": "What is 1 + 1?", "A": 1, "B": 2, "C": 3, "answer": "B"},
    {"question": "What is 2 + 2?", "A": 3, "B": 4.5, "C": 5, "answer": "A"},
]
WORDS: list[dict[str, Any]] = [
    {"input": "1 + 1 is", "target": "2", "eval_type": "generation", "answer_choices": None},
    {"input": "2 + 2 is", "target": "4", "eval_type": "multiple_choice", "answer_choices": "['3', '4']"},
]
TABLE = 'question,A,B,answer\n"What is 1, or 2?",1,2,A\nWhat is 1_0?,10,"1""0",B\n'


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The working directory."""
    with contextlib.chdir(tmp_path_factory.mktemp("questions")):
        yield


def read(what: str, name: str, text: str) -> Any:
    path = Path(name)
    path.write_bytes(text.encode(errors="surrogatepass"))
    return outcome(what, lambda: read_questions(path), named=name)


@given(st.sampled_from([ROWS, COLUMNS, WORDS]).flatmap(changed), st.sampled_from(["rows.json", "rows.jsonl"]))
@inputs(200)
def test_rows_of_json(rows: Any, name: str) -> None:
    if is_writable(rows):
        lines = rows if isinstance(rows, list) and name.endswith("l") else [rows]
        read("question rows", name, "\n".join(json.dumps(line) for line in lines))


@given(
    torn([TABLE, "\n".join(map(json.dumps, ROWS)), json.dumps(COLUMNS)]),
    st.sampled_from([".csv", ".tsv", ".jsonl", ".json"]),
)
@inputs(200)
def test_torn_files_of_questions(text: str, suffix: str) -> None:
    read("question text", f"rows{suffix}", text)


@given(NUMERALS, st.sampled_from([".csv", ".jsonl"]))
@inputs(150)
def test_an_answer_keeps_its_spelling(numeral: str, suffix: str) -> None:
    """In a table every cell is text; in JSON a number is text too, as it is written there."""
    if suffix == ".csv":
        file = io.StringIO()
        csv.writer(file).writerows([["question", "answer"], ["What is it?", numeral]])
        text = file.getvalue()
    else:
        text = f'{{"question": "What is it?", "answer": {numeral}}}'
    path = Path(f"answer{suffix}")
    path.write_bytes(text.encode(errors="surrogatepass"))
    rows = outcome("answer", lambda: read_rows(path), named=path.name)
    if rows is not REFUSED and numeral.strip() not in ("", "null", "NaN", "Infinity", "-Infinity"):
        assert text_of(rows[0], "answer") == numeral.strip()
