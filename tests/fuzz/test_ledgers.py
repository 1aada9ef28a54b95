"""Ledgers: lines that are torn, doubled, foreign, in another order or of other types; what is read is what is there."""

import contextlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.ledger import Ledger, complete_scores, describe_ledger, plan_of, read_trials
from tests.fuzz.budget import inputs
from tests.fuzz.outcomes import REFUSED, outcome
from tests.fuzz.values import changed, is_writable, torn
from tests.ledger.test_ledger import HEADER, RECIPE

LEDGER = Path("trials.jsonl")
LINES: list[dict[str, Any]] = [
    {"schema": 1, **HEADER, "config": {"scorer": {"tasks": ["toy"]}}},
    {"most": 2},
    {"key": "a", "chunk": "search/0", "scores": [0.5, 1.0], "seconds": 0.25, "recipe": RECIPE, "tokens": [3, None]},
    {"key": "b", "chunk": "search/0", "error": "out of memory", "recipe": RECIPE},
    {"key": "b", "chunk": "search/0", "scores": [0.0, 1e-3], "seconds": 1.5, "answers": {"answers": 2}},
    {"race": {"generation": 1, "first": "search/0", "stopped": {"b": 1}}},
    {"deal": {"search/a/0": ["toy/0", "toy/2"], "search/a/1": ["toy/1", "toy/3"]}, "levels": {"toy/0": "hard"}},
    {"key": "a", "chunk": "search/a/0", "scores": [0.5, 0.0], "seconds": 0.25},
    {"slope": "abc", "losses": [0.5, 1.5], "derivatives": [0.1, -2e-7]},
    {"price": 2.5, "allowance": 100.0},
    {"screen": {"kept": ["math"], "rows": [], "scored": []}},
    {"stop": {"after": 1, "budget": {"evaluations": 3}}},
    {"cut": "holdout", "chunks": 1, "budget": None},
    {"look": "holdout", "keys": ["a", "b"]},
    {"elapsed": 3.25, "command": 1},
]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The working directory, with one ledger for all inputs."""
    with contextlib.chdir(tmp_path_factory.mktemp("ledgers")):
        yield


@st.composite
def line_lists(draw: st.DrawFn) -> list[Any]:
    """Lines in another order, doubled or left out, and one or two of them with other values."""
    lines: list[Any] = draw(st.lists(st.sampled_from(LINES[1:]), max_size=16))
    lines = [LINES[0], *lines] if draw(st.integers(0, 9)) else lines
    return draw(changed(lines, most=2)) if lines and draw(st.booleans()) else lines


def text_of(lines: list[Any]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def read_all(what: str, text: str) -> None:
    """Read a ledger in all ways; opening it drops an incomplete last line and changes nothing else."""
    data = text.encode(errors="surrogatepass")
    LEDGER.write_bytes(data)
    found = outcome(f"{what} read", lambda: read_trials(LEDGER), named=str(LEDGER))
    outcome(f"{what} described", lambda: list(describe_ledger(LEDGER)), named=str(LEDGER))
    assert LEDGER.read_bytes() == data, "reading has changed the file"
    if found is not REFUSED:
        header, lines = found
        for line in lines:
            assert_written(line, data)
        outcome(f"{what} scores", lambda: complete_scores(plan := plan_of(header, lines), lines) and plan)
    opened = outcome(f"{what} opened", lambda: Ledger(LEDGER, {}), named=str(LEDGER))
    if opened is not REFUSED:
        opened.close()
    complete = data[: data.rfind(b"\n") + 1]
    assert LEDGER.read_bytes() == complete if complete.strip() else LEDGER.read_bytes().startswith(complete)


def assert_written(line: dict[str, Any], data: bytes) -> None:
    """One of the lines of the text says the same, number by number; the reader may leave keys out."""
    for text in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            exact = json.loads(text, parse_float=Decimal, parse_int=Decimal)
            if isinstance(exact, dict) and all(key in exact and equal(line[key], exact[key]) for key in line):
                return
    raise AssertionError(line)


def equal(value: Any, exact: Any) -> bool:
    if isinstance(value, list):
        return isinstance(exact, list) and len(value) == len(exact) and all(map(equal, value, exact))
    if isinstance(value, dict):
        return (
            isinstance(exact, dict) and value.keys() == exact.keys() and all(equal(value[k], exact[k]) for k in value)
        )
    if isinstance(exact, Decimal):
        return type(value) in (int, float) and value == (exact if isinstance(value, int) else float(exact))
    return type(value) is type(exact) and repr(value) == repr(exact)


@given(line_lists())
@inputs(300)
def test_a_ledger_of_other_lines(lines: list[Any]) -> None:
    if is_writable(lines):
        read_all("ledger lines", text_of(lines))


@given(torn([text_of(LINES), text_of(LINES[:3])]))
@inputs(150)
def test_a_torn_ledger(text: str) -> None:
    read_all("ledger text", text)
