"""The fast suite's sample of a parametrised test: every value is in it, and nothing else decides what is."""

import argparse
from itertools import product
from random import Random

import pytest

from tests.sampling import Case, covering, part

AXES = {"method": 33, "shape": 6, "dtype": 3}
CASES: list[Case] = [
    ("-".join(map(str, places)), frozenset((name, (place,)) for name, place in zip(AXES, places, strict=True)))
    for places in product(*map(range, AXES.values()))
]


def test_every_value_occurs_in_as_many_cases_as_the_longest_list_has() -> None:
    sample = set(covering(CASES))
    found = {value for name, values in CASES if name in sample for value in values}
    assert len(found) == sum(AXES.values()) and len(sample) == max(AXES.values())


def test_the_order_of_cases_and_repetition_change_nothing() -> None:
    shuffled = Random(1).sample(CASES, len(CASES))
    assert list(covering(shuffled)) == list(covering(CASES))


def test_a_list_of_cases_is_kept_whole() -> None:
    cases: list[Case] = [(name, frozenset({("a,b", (place,))})) for place, name in enumerate("xyz")]
    assert set(covering(cases)) == {"x", "y", "z"}


def test_a_part_is_k_of_n() -> None:
    assert part("2/3") == (2, 3)
    for text in ("0/3", "4/3", "3", "a/b", "-1/3"):
        with pytest.raises(argparse.ArgumentTypeError, match="give K/N with K from 1 to N"):
            part(text)
