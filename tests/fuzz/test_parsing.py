"""Any text is read as what it says, or refused: YAML and JSON beside second readings of them."""

import json
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge.parsing import MAX_LENGTH, dump_yaml, parse_json, parse_yaml
from tests.fuzz.budget import INPUTS, inputs
from tests.fuzz.readings import says, texts_of
from tests.fuzz.values import NUMERALS, SCALARS, torn

YAML_TEXTS = (
    "seed: 1\nbudget: {items: 100, hours: 0.5}\n",
    "- 1\n- [a, 2.5, true]\n- {b: &x [1, 2], c: *x}\n",
    "a: |\n  1\n  2\nb: 'it''s 1_0'\n",
)
JSON_TEXTS = ('{"a": [1, 2.5, -3e10, null, true], "b": {"c": "x"}}', '[{"r": 16, "alpha": 0.25}, "\\u00e9"]')
PLAIN = st.recursive(
    SCALARS.filter(lambda value: not isinstance(value, str) or value.isprintable() or value == ""),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="ascii")), inner),
    max_leaves=8,
)


def read(what: str, parse: Any, text: str) -> Any:
    """The value, or None for a text that was refused in one short line."""
    INPUTS[what] += 1
    try:
        return parse(text)
    except ValueError as error:
        said = str(error)
        assert type(error) is ValueError and said and "\n" not in said and len(said) <= MAX_LENGTH + 60
        return None


@given(st.one_of(NUMERALS, NUMERALS.map("a: {}".format), NUMERALS.map("[{}]".format), torn(YAML_TEXTS)))
@inputs(800)
def test_yaml_says_the_numbers_of_its_text(text: str) -> None:
    value = read("yaml text", parse_yaml, text)
    if value is not None and "<<" not in text:
        assert says(texts_of(text), value), (text, value)


@given(st.one_of(NUMERALS, NUMERALS.map('{{"a": {}}}'.format), torn(JSON_TEXTS)))
@inputs(600)
def test_json_says_the_numbers_of_its_text(text: str) -> None:
    value = read("json text", parse_json, text)
    if value is not None:
        exact = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=str)
        assert_exact(value, exact)


def assert_exact(value: Any, exact: Any) -> None:
    """The same tree, with each number the nearest one to the decimal of its text."""
    if isinstance(value, list):
        assert len(value) == len(exact)
        for one, other in zip(value, exact, strict=True):
            assert_exact(one, other)
    elif isinstance(value, dict):
        assert list(value) == list(exact)
        for key in value:
            assert_exact(value[key], exact[key])
    elif isinstance(exact, Decimal):
        assert type(value) in (int, float) and value == (exact if isinstance(value, int) else float(exact))
        assert (value == 0) == (exact == 0)
    else:
        assert exact == value or exact in ("NaN", "Infinity", "-Infinity")


@given(PLAIN)
@inputs(300)
def test_what_is_written_is_read_back_by_us_and_by_pyyaml(value: Any) -> None:
    INPUTS["yaml written"] += 1
    try:
        text = dump_yaml(value, sort_keys=False)
        text.encode()
    except UnicodeEncodeError:
        return
    for found in (parse_yaml(text), yaml.safe_load(text)):
        assert repr(found) == repr(value)


@pytest.mark.parametrize("text", ["1_000", "017", "0o17", "0x1F", "1:30", "2026-01-01", "1e3_0"])
def test_numbers_that_yaml_1_1_changes_are_text(text: str) -> None:
    assert parse_yaml(text) == text
