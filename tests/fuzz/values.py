"""Values that nobody means, and documents with some of them in the place of others."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from evomerge.parsing import refuse_deep
from tests.mutations import KEYS, NUMBERS, TREES, WORDS, Place, places

Tree = Any
SPELLINGS = (
    *("1_000", "017", "0o17", "0x1F", "0b11", "1:30", "1:30.5", "190:20:30", "2026-01-01", "2026-01-01 10:00:00", "+1"),
    *("1e400", "-1e400", "1e-400", "1e3", "1E3", "1.e3", ".5", "5.", "-.5e-3", "00.5", "0.1e1", "1e+3", "-0", "-0.0"),
    *(".inf", "-.INF", ".nan", "inf", "nan", "Infinity", "1,5", "1 000", "٣", "１", "1d", "0.30000000000000004"),
    *("9007199254740993", "18446744073709551616", "1" * 400, "1" * 5000, "0." + "1" * 400, "1e0000000001"),
    *("yes", "No", "on", "OFF", "true", "TRUE", "null", "~", "", "y", "n", "=", "<<", "!!int 3", "&a 3", "*a", "? 1"),
)
NUMERALS = st.one_of(
    st.sampled_from(SPELLINGS),
    st.from_regex(r"[-+]?[0-9_]{0,6}[.]?[0-9_]{0,6}([eE][-+]?[0-9]{1,4})?", fullmatch=True),
    st.integers().map(str),
    st.floats().map(repr),
)
SCALARS = st.one_of(
    st.sampled_from(["x" * 300, "é" * 150, "a/" * 3000, "owner/" + "x" * 300]),
    st.none(),
    st.booleans(),
    st.sampled_from(WORDS),
    st.sampled_from([number for number in NUMBERS if number != 10**5000] + [10**500]),  # hypothesis prints them
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(SPELLINGS),
)
VALUES = st.one_of(
    SCALARS,
    st.sampled_from(TREES),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner)),
    st.integers(1, 400).map(lambda depth: json.loads("[" * depth + "]" * depth)),
)
CHANGES = ("replace", "replace", "replace", "remove", "rename", "repeat", "swap")


@st.composite
def changed(draw: st.DrawFn, document: Tree, values: st.SearchStrategy[Any] = VALUES, most: int = 3) -> Tree:
    """A copy of the document with one to `most` changes, each at any place: values, keys, repetitions, order."""
    tree = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        found = list(places(tree))
        if found:
            _change(draw, tree, draw(st.sampled_from(found)), values)
    return tree


def _change(draw: st.DrawFn, tree: Tree, place: Place, values: st.SearchStrategy[Any]) -> None:
    parent: Any = tree
    for key in place[:-1]:
        parent = parent[key]
    kind, key = draw(st.sampled_from(CHANGES)), place[-1]
    if kind == "replace":
        parent[key] = copy.deepcopy(draw(values))
    elif kind == "remove":
        del parent[key]
    elif kind == "swap":
        other = draw(st.sampled_from(list(parent) if isinstance(parent, Mapping) else range(len(parent))))
        parent[key], parent[other] = parent[other], parent[key]
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == "rename":
        parent[draw(st.sampled_from(KEYS) | st.text(max_size=8))] = parent.pop(key)
    else:
        parent[draw(st.sampled_from(KEYS) | st.text(max_size=8))] = parent[key]


def is_writable(tree: Tree) -> bool:
    """Whether a tree could be in a file: not too deep, no half characters, bytes or numbers of thousands of digits."""
    try:
        refuse_deep([[[[[tree]]]]])
        json.dumps(_text_keys(tree), ensure_ascii=False).encode()
    except (UnicodeEncodeError, TypeError, ValueError):
        return False
    return True


def _text_keys(tree: Tree) -> Tree:
    if isinstance(tree, Mapping):
        return [[key, _text_keys(value)] for key, value in tree.items()]
    return [_text_keys(entry) for entry in tree] if isinstance(tree, list) else tree


@st.composite
def torn(draw: st.DrawFn, texts: Sequence[str]) -> str:
    """A text with a few changes to its characters: cut, doubled, replaced, with numerals or syntax put in."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from((0, 0, 1, 2, 5, 40))))
        text = text[:start] + draw(PIECES) + text[end:]
    return text


PIECES = st.one_of(
    NUMERALS,
    st.sampled_from(
        ["", "\n", "  ", "\t", ": ", "- ", "[", "]", "{", "}", ",", "'", '"', "#", "&a ", "*a", "|", ">", "%"]
    ),
    st.sampled_from(
        ["\0", "\ufeff", "\u2028", "\r", "é", "---\n", "...\n", "!!python/name:os.system ", "${oc.env:HOME}"]
    ),
    st.sampled_from(["NaN", "Infinity", "1e999", "\\ud800", "\\u0000", "null", "true", "{}", "[[[[[[[[", "x" * 300]),
    st.text(max_size=4),
)
