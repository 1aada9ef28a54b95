"""YAML and JSON as they are read: numbers by their decimal digits, and what is refused."""

import json
from typing import Any

import pytest

from evomerge.parsing import (
    MAX_DEPTH,
    changed_number,
    dump_yaml,
    parse_json,
    parse_number,
    parse_yaml,
    refuse_deep,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1e5", 100000.0), (".5", 0.5), ("5.", 5.0), ("+3", 3), ("-.inf", float("-inf")), ("0", 0)],
)
def test_decimal_numbers_of_yaml(text: str, value: float) -> None:
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["017", "1_000", "0o17", "0x1F", "0b11", "1:30", "190:20:30.5", "2026-01-01", "="])
def test_what_yaml_1_1_would_change_is_text(text: str) -> None:
    assert parse_yaml(f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1e400", "the number 1e400 is too large for a float"),
        ("a: -1e-400", "the number -1e-400 is too small for a float"),
        ("1" * 5000, "a number has 5000 digits"),
        ("{a: 1, b: 2, a: 3}", "the key 'a' is there twice in line 1, column 14"),
        ("{1: a, true: b}", "the key 'true' is there twice"),
        ("? [1]\n: 2", "a key is a list or a mapping"),
        ("a: &x [*x]", "the anchor in line 1 refers to itself"),
        ("[" * 1000, f"nested more than {MAX_DEPTH} deep"),
        ("[" * 150 + "]" * 150, f"nested more than {MAX_DEPTH} deep"),
        ("!!python/object/apply:os.system [ls]", "the tag tag:yaml.org,2002:python/object/apply:os.system"[-40:]),
        ('a: "\\ud800"', "half of a character"),
        ("a: [", "expected the node content"),
    ],
    ids=lambda text: text[:20],
)
def test_refusals_of_yaml(text: str, why: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_yaml(text)
    assert why in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_aliases_that_multiply_are_refused_before_they_are_copied() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    with pytest.raises(ValueError, match="with its aliases it has more than 1000000 values"):
        parse_yaml("\n".join(lines))
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"r": 8, "r": 16}', "the key 'r' is there twice"),
        ("[1e400]", "too large"),
        ("[1e-400]", "too small"),
        ("9" * 5000, "5000 digits"),
        ("[" * 150 + "]" * 150, "nested more than"),
        ("[" * 10**5, "nested more than"),
        ('["\\ud800"]', "half of a character"),
        ("[1", "Expecting"),
        (b"\xff", "can't decode"),
    ],
    ids=lambda text: str(text)[:20],
)
def test_refusals_of_json(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse_json(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_json_of_other_programs() -> None:
    assert parse_json('{"r": 8, "r": 16}', repeated_keys=True) == {"r": 16}
    assert parse_json('{"time_step_limit": [0.0, Infinity]}') == {"time_step_limit": [0.0, float("inf")]}
    assert parse_json('{"a": 1.50, "b": [007.0]}'.replace("007.0", "1E3"), numbers_as_text=True) == {
        "a": "1.50",
        "b": ["1E3"],
    }


@pytest.mark.parametrize(
    "text", ["1e-3", "017", "1_000", "0x1F", "1:30", "2026-01-01", "no", "~", "", "=", "1e5", ".5"]
)
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert parse_yaml(dump_yaml({"a": text, "b": 1e-05, "c": 1e22})) == {"a": text, "b": 1e-05, "c": 1e22}


@pytest.mark.parametrize("text", ["1_000", "0x10", "٣", "1 ", "inf", "", "1,5", "true"])
def test_a_text_that_is_no_decimal_number(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(text)
    assert parse_number("1e-3") == 0.001


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 017", "017"),
        ("[1, 1_000]", "1_000"),
        ("a: 1:30", "1:30"),
        ("a: '017'", None),
        ("a: 1 # 017", None),
        ("[", None),
    ],
)
def test_the_number_that_another_reader_would_change(text: str, found: str | None) -> None:
    assert changed_number(text) == found


def test_what_contains_itself_is_too_deep() -> None:
    inside: list[Any] = []
    inside += [inside, inside, {"a": inside}]
    with pytest.raises(ValueError, match="nested"):
        refuse_deep(inside)
    refuse_deep(json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH))
